"""One sparse model for all, after PruneFL.

Jiang et al., Model Pruning Enables Efficient Federated Learning on Edge Devices, IEEE TNNLS 2022. All clients hold the
same sparse model; now and then all entries are trained again, and which of them stay is decided anew. It saves bytes,
not time, on hardware that multiplies dense matrices. Left out: the first pruning on one chosen client (round 0 is dense
instead), a density that adapts to the gain of each entry a second (it is given), and squared gradients as importance
(here the magnitude that an entry has after the dense round).
"""

from __future__ import annotations

from collections.abc import Sequence

from raffm_mpi.elastic.labels import DENSE, DENSITY, FULL, Selection
from raffm_mpi.methods.base import Method


class PruneFL(Method):
    """All entries in every n-th round, and the largest of each matrix in between, the same for every client."""

    def selections(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        is_dense = round_number % self.settings.reconfigure_every == 0
        return [FULL if is_dense else self._sparse] * len(cohort)

    def ladder(self) -> list[Selection]:
        return [FULL, self._sparse]

    @property
    def _sparse(self) -> Selection:
        return {DENSITY: max(1, round(self.settings.density * DENSE))} if self.settings.density < 1 else FULL
