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
    """The clients whose contributions are in a total, in the cohort's order; one entry a client in each sequence."""

    round_number: int
    envelope: Selection
    selections: Sequence[Selection]
    weights: Sequence[int]  # as :meth:`Aggregator.weight`
    reported: Sequence[int]  # as :meth:`Aggregator.add` returned them


class Aggregator(ABC):
    """One way to aggregate, of one model; every rank holds one.

    ``sent`` is the layout of what the server sends and checkpoints hold, ``summed`` that of the exact sum. Both are of
    the full model; a round restricts them to its envelope. Tensors that travel are float32.

    Every rank derives ``weight`` and ``total_weight`` by itself, so that they depend on their arguments alone. A group
    calls ``contribution`` and ``add`` once for each client it trains, rank 0 calls ``apply`` once a round. A
    TrainingFault of ``contribution`` drops the client; any other error of a hook ends the run as a fault.
    """

    keeps_base = True  # whether frozen parameters keep their bits

    def __init__(self, layout: ModelLayout) -> None:
        self.sent = self.summed = layout.part(layout.trained)

    def weight(self, num_examples: int) -> int:
        """The weight of a client with that many examples: a whole number, at least 1 where there is an example."""
        return num_examples

    def total_weight(self, weights: Sequence[int]) -> int:
        """A bound on the weights that :meth:`add` will use for a cohort, summed: it fixes the grid of the exact sum.

        ``weights`` are those of :meth:`weight`. The grid has 56 - log2(bound) bits for fractions.
        """
        return sum(weights)

    def contribution(self, received: Tensors, trained: Tensors) -> Tensors:
        """What a client adds: the tensors of ``summed``, cut to the client's selection.

        ``received`` has what the client holds of ``sent``, ``trained`` contiguous copies of what it trained of that:
        float32 on the group's device, cut to the client's selection. ``trained`` may be overwritten, ``received`` not.
        Entries that are not finite or above 64 drop the client. The default is the update: trained minus received.
        """
        return {name: tensor.sub_(received[name]) for name, tensor in trained.items()}

    def add(self, total: ExactSum, selection: Selection, contribution: Tensors, weight: int) -> int:
        """Add a contribution, all of whose entries are legal, to a group's sum; returns the weight it was added by.

        ``selection`` is the client's within the envelope, ``weight`` as :meth:`weight`. What is returned reaches
        :meth:`apply` as ``gathered.reported``.
        """
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

        ``tensors`` are float32 in full shape on the CPU, ``total`` is the exact sum (int64) over the envelope of all
        clients in ``gathered``. An entry that nobody holds should keep its bits. The optimizer steps on a mean update;
        None adds it as it is. An aggregator of something else than updates ignores the optimizer.
        """

    def bytes_down(self, bytes_up: np.ndarray, selections: Sequence[Selection]) -> np.ndarray:
        """Simulated bytes to each client of a cohort; the default is as many as come back.

        ``bytes_up`` and the result are int64 ``[cohort]``, ``selections`` are of the full model.
        """
        return bytes_up
