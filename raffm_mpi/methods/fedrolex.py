"""FedRolex: a window of every axis, which rolls on each round.

Alam, Liu, Yan, Zhang, FedRolex: Model-Heterogeneous Federated Learning with Rolling Sub-Model Extraction, NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raffm_mpi.elastic.labels import Selection, count
from raffm_mpi.methods.budget import Budgeted, equal_widths


class FedRolex(Budgeted):
    """A client's share of each axis is a window that moves on by one index a round, around the end of the axis."""

    def path(self) -> Sequence[Selection]:
        return equal_widths(self.layout, self.settings.axes)

    def selections(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        # One selection for all clients at a place, so that they count as one where coverage is computed.
        path, places = self.budgets.path, map(self.budgets.place, cohort)
        rolled = {place: self._roll(round_number, path[place]) for place in places}
        return [rolled[self.budgets.place(client)] for client in cohort]

    def _roll(self, round_number: int, selection: Selection) -> Selection:
        sizes = self.layout.sizes
        return {dimension: window(round_number, count(kept), sizes[dimension]) for dimension, kept in selection.items()}


def window(round_number: int, kept: int, size: int) -> Tensor:
    """The indices of round j, ascending: j, j + 1, …, j + kept - 1, each modulo the size.

    >>> window(3, 2, 4), window(2, 3, 4)
    (tensor([0, 3]), tensor([0, 2, 3]))
    """
    return ((round_number + torch.arange(kept)) % size).sort().values
