"""Depth prefixes, after DepthFL.

Kim, Yu, Kim, Moon, DepthFL: Depthwise Federated Learning for Heterogeneous Clients, ICLR 2023. Left out: its classifier
at every depth and their mutual distillation; all depths share the model's one head.
"""

from __future__ import annotations

from collections.abc import Sequence

from raffm_mpi.elastic.labels import DEPTH, FULL, Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.methods.budget import Budgeted
from raffm_mpi.methods.space import axes_of


class DepthFL(Budgeted):
    """Every client holds the first layers of the model, as many as its budget allows."""

    @classmethod
    def check(cls, settings: object, layout: ModelLayout) -> None:
        axes_of(layout, DEPTH, "method")

    def path(self) -> Sequence[Selection]:
        return [*({DEPTH: depth} for depth in range(1, self.layout.size(DEPTH))), FULL]
