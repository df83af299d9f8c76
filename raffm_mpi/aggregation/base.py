"""What an aggregator decides: what travels, what a client adds to the exact sum, and what the server makes of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from raffm_mpi.aggregation.exact import ExactSum
from raffm_mpi.aggregation.server_optimizer import ServerOptimizer
from raffm_mpi.elastic.labels import Selection, Tensors
from raffm_mpi.elastic.table import ModelLayout


@dataclass(frozen=True)
class Gathered:
    """The clients whose contributions are in a total, in the cohort's order."""

    round_number: int
    envelope: Selection
    selections: Sequence[Selection]
    weights: Sequence[int]  # as :meth:`Aggregator.weight`
    reported: Sequence[int]  # as :meth:`Aggregator.add` returned them


class Aggregator(ABC):
    """One way to aggregate, of one model; every rank holds one.

    ``sent`` is the layout of what the server sends and checkpoints hold, ``summed`` that of the exact sum. Both are of
    the full model; a round restricts them to its envelope.
    """

    keeps_base = True  # whether frozen parameters keep their bits

    def __init__(self, layout: ModelLayout) -> None:
        self.sent = self.summed = layout.part(layout.trained)

    def weight(self, num_examples: int) -> int:
        """The weight of a client with that many examples."""
        return num_examples

    def total_weight(self, weights: Sequence[int]) -> int:
        """A bound on the summed weight of a cohort, which fixes the grid of the exact sum on every rank alike."""
        return sum(weights)

    def contribution(self, received: Tensors, trained: Tensors) -> Tensors:
        """What a client adds, by the names of ``summed``; ``trained`` may be overwritten.

        ``received`` may hold more than was trained. The default is the update: trained minus received.
        """
        return {name: tensor.sub_(received[name]) for name, tensor in trained.items()}

    def add(self, total: ExactSum, selection: Selection, contribution: Tensors, weight: int) -> int:
        """Add a contribution, which has no flaw, to a sum; returns the weight that the client reports."""
        total.add(selection, contribution, weight)
        return weight

    @abstractmethod
    def apply(
        self,
        tensors: Mapping[str, Tensor],
        total: ExactSum,
        gathered: Gathered,
        optimizer: ServerOptimizer | None = None,
    ) -> None:
        """The server's part, in place: the global tensors of ``sent`` after the round.

        The optimizer steps on a mean update, and adds it if there is none; other aggregators go with none.
        """

    def bytes_down(self, bytes_up: np.ndarray, selections: Sequence[Selection]) -> np.ndarray:
        """Simulated bytes to each client of a cohort: int64; as many as come back, if nothing else is said."""
        return bytes_up
