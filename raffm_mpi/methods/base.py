"""What a federated method decides; everything else of a round is shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from raffm_mpi.elastic.cost import Cost
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.learning.objective import Nested

Price = Callable[[Selection], Cost]  # the cost of a sub-model on an example of the data set
Fits = Callable[[int, Selection], bool]  # whether a client's device can hold a sub-model and have it ready in time


class Method(ABC):
    """A method chooses what each client of a cohort holds, and may reorder the model before a round.

    Every rank holds one and derives the same selections from it, so that none has to travel: choices are keyed by
    (seed, round, client). ``settings`` are the method's own of the config; ``fits`` is there if clients have devices.
    """

    needs_update: bool = False  # whether :meth:`order` looks at the last round's update

    def __init__(self, layout: ModelLayout, seed: int, price: Price, settings: Any, fits: Fits | None = None) -> None:
        self.layout = layout
        self.seed = seed
        self.price = price
        self.settings = settings
        self.fits = fits

    @classmethod
    def check(cls, settings: Any, layout: ModelLayout) -> None:
        """Raise UserMistake for settings that a model contradicts: all that its structure alone can tell."""
        del settings, layout  # most have nothing to check

    @classmethod
    def prepare(cls, model: nn.Module) -> nn.Module:
        """The model that the method trains, made of a transformers model (on torch's meta device, too), in place."""
        return model

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Look at the model that the run begins with, which every rank has; a plan has none to look at."""
        del tensors

    def rewrite(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the global model in another way after a round, in place: the same function, up to rounding."""
        del tensors

    def order(self, tensors: Mapping[str, Tensor], update: Mapping[str, Tensor] | None = None) -> Selection:
        """The permutation to apply to the global model before the next round; empty for none.

        ``update`` is what the last round changed, where the method needs it and there was a round.
        """
        return FULL

    @abstractmethod
    def selections(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        """What each client of the cohort holds in this round, in the cohort's order."""

    def nested(self, round_number: int, client: int, selection: Selection) -> Nested | None:
        """The sub-models of its own that a client trains with what it holds; None for none."""
        return None

    def ladder(self) -> list[Selection]:
        """The sub-models worth evaluating, largest first."""
        return [FULL]
