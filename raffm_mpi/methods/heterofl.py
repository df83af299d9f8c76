"""HeteroFL: the leading share of every axis.

Diao, Ding, Tarokh, HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous Clients, ICLR
2021. Left out: its scaler, which divides what narrower layers put out, and its masked loss for classes that a client
lacks.
"""

from __future__ import annotations

from collections.abc import Sequence

from raffm_mpi.elastic.labels import Selection
from raffm_mpi.methods.budget import Budgeted, equal_widths


class HeteroFL(Budgeted):
    """Every client holds the leading share r of each axis, the same share of all, as its budget allows."""

    def path(self) -> Sequence[Selection]:
        return equal_widths(self.layout, self.settings.axes)
