"""What a round has so far: the exact sum of the clients that were trained, and a report of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from raffm_mpi.aggregation.exact import ExactSum
from raffm_mpi.federation.plan import NOBODY, Round

# A row a client of the cohort, which one rank fills while all others leave it zero, so that rows merge by OR.
CLIENT_REPORT = np.dtype(
    [
        ("done", "u1"),
        ("trained", "u1"),  # its update is in the sum
        ("weight", "i8"),  # by which it is
        ("group", "i2"),
        ("num_steps", "i8"),
        ("micro_batches", "i2"),
        ("first_loss", "f8"),
        ("last_loss", "f8"),
        ("mean_loss", "f8"),
        ("train_s", "f8"),
        ("overhead_s", "f8"),
        ("problem", "S240"),  # why it was dropped, or had to be trained again
    ]
)


@dataclass
class Tally:
    """The sum and the reports of what ``key`` names: (round, attempt, deal)."""

    key: tuple[int, int, int]
    total: ExactSum
    reports: np.ndarray  # CLIENT_REPORT [cohort]

    @classmethod
    def empty(cls, current: Round, device: torch.device | str = "cpu") -> Tally:
        """Nothing trained yet."""
        total = ExactSum.zeros(current.sums, current.total_weight, device)
        return cls(current.plan.key, total, np.zeros(len(current.plan.cohort), CLIENT_REPORT))

    @classmethod
    def begin(cls, current: Round) -> Tally:
        """What the server begins a round with: clients that are away are done."""
        tally = cls.empty(current)
        tally.reports["done"][current.plan.away] = 1
        tally.reports["group"][current.plan.away] = NOBODY
        return tally

    @property
    def open(self) -> np.ndarray:
        """Positions in the cohort of the clients that are neither trained nor dropped: int64."""
        return np.flatnonzero(self.reports["done"] == 0)

    @property
    def trained(self) -> np.ndarray:
        """Positions in the cohort of the clients whose updates are in the sum: int64."""
        return np.flatnonzero(self.reports["trained"])

    def add(self, other: Tally) -> None:
        """Take in clients that this tally does not hold yet."""
        assert not (self.reports["done"] & other.reports["done"]).any(), "a client was trained twice"
        if self.reports["trained"].any():
            self.total.packed.buffer.add_(other.total.packed.buffer)
        else:  # the usual case, all at once: this tally's own memory is not even touched
            self.total = other.total
        new = other.reports["done"] == 1
        self.reports[new] = other.reports[new]
