"""FedAvg: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017."""

from __future__ import annotations

from collections.abc import Sequence

from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.methods.base import Method


class FedAvg(Method):
    """Every client trains the full model."""

    def selections(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        return [FULL for _ in cohort]
