"""The mean over the clients that hold an entry, and the official code's arithmetic, for comparison."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from raffm_mpi.aggregation.base import Aggregator, Gathered
from raffm_mpi.aggregation.exact import ExactSum, apply_official, apply_update
from raffm_mpi.aggregation.server_optimizer import ServerOptimizer


class Mean(Aggregator):
    """FedAvg's mean update (McMahan et al., 2017), of each entry over the clients that hold it, by their examples."""

    def apply(
        self,
        tensors: Mapping[str, Tensor],
        total: ExactSum,
        gathered: Gathered,
        optimizer: ServerOptimizer | None = None,
    ) -> None:
        apply_update(tensors, self.sent, total, gathered.envelope, gathered.selections, gathered.weights, optimizer)


class Official(Aggregator):
    """The official RaFFM code's: see :func:`raffm_mpi.aggregation.exact.apply_official`."""

    def weight(self, num_examples: int) -> int:
        return 1

    def apply(
        self,
        tensors: Mapping[str, Tensor],
        total: ExactSum,
        gathered: Gathered,
        optimizer: ServerOptimizer | None = None,
    ) -> None:
        apply_official(tensors, self.sent, total, gathered.envelope, gathered.selections)
