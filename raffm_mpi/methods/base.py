"""What a federated method decides; everything else of a round is shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from raffm_mpi.elastic.cost import Cost
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.elastic.table import ModelLayout


class Method(ABC):
    """A method chooses what each client of a cohort holds, and may reorder the model before a round.

    Every rank holds one and derives the same selections from it, so that none has to travel: choices are keyed by
    (seed, round, client).
    """

    def __init__(self, layout: ModelLayout, seed: int, price: Callable[[Selection], Cost]) -> None:
        self.layout = layout
        self.seed = seed
        self.price = price  # the cost of a sub-model on an example of the data set

    def order(self, tensors: Mapping[str, Tensor]) -> Selection:
        """The permutation to apply to the global model before the next round; empty for none."""
        return FULL

    @abstractmethod
    def selections(self, round: int, cohort: Sequence[int]) -> list[Selection]:
        """What each client of the cohort holds in this round, in the cohort's order."""

    def ladder(self) -> list[Selection]:
        """The sub-models worth evaluating, largest first."""
        return [FULL]
