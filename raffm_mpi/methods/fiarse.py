"""Sparse sub-models, after FIARSE: the unstructured reference.

Wu et al., FIARSE: Model-Heterogeneous Federated Learning via Importance-Aware Submodel Extraction, NeurIPS 2024. Which
entries a client holds follows from their magnitude, whatever row or column they are in. It saves bytes, not time, on
hardware that multiplies dense matrices. Left out: its factor that lets the gradient see the threshold; entries that a
client does not hold have no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

from raffm_mpi.elastic.labels import DENSE, DENSITY, FULL, Selection
from raffm_mpi.methods.budget import Budgeted


class FIARSE(Budgeted):
    """Every client holds the largest entries of each matrix, as many as its budget allows; vectors it holds whole."""

    def path(self) -> Sequence[Selection]:
        return [*({DENSITY: density} for density in range(1, DENSE)), FULL]
