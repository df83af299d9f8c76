"""Which group trains which client: longest processing time first, by predicted cost."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_FLOPS_PER_S = 1e10  # the first guess of a group's speed, before it has been measured
_BASE_S = 0.01  # the first guess of a client's fixed cost
_MEMORY = 0.5  # weight of the newest measurement


@dataclass
class Schedule:
    """Predicts seconds from FLOPs, deals clients to groups, and learns each group's speed from what it measured."""

    num_groups: int
    flops_per_s: np.ndarray = field(init=False)  # [num_groups]
    base_s: np.ndarray = field(init=False)  # [num_groups], a client's fixed cost
    measured: np.ndarray = field(init=False)  # [num_groups], whether anything was

    def __post_init__(self) -> None:
        self.flops_per_s = np.full(self.num_groups, _FLOPS_PER_S)
        self.base_s = np.full(self.num_groups, _BASE_S)
        self.measured = np.zeros(self.num_groups, bool)

    def assign(self, flops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Deal clients of the given FLOPs to groups; returns each client's group and each group's predicted seconds.

        The costliest client goes first, each to the group that would finish it earliest (Graham, 1969).
        """
        groups = np.zeros(len(flops), np.int64)
        busy_s = np.zeros(self.num_groups)
        for client in np.argsort(-flops, kind="stable"):
            done_s = busy_s + flops[client] / self.flops_per_s + self.base_s
            groups[client] = done_s.argmin()
            busy_s[groups[client]] = done_s.min()
        return groups, busy_s

    def correct(self, group: int, flops: float, train_s: float, num_clients: int, overhead_s: float) -> None:
        """Learn from what a group measured: FLOPs and seconds of its training steps, and the rest."""
        if num_clients == 0 or train_s <= 0:
            return
        weight = _MEMORY if self.measured[group] else 1.0
        self.flops_per_s[group] += weight * (flops / train_s - self.flops_per_s[group])
        self.base_s[group] += weight * (overhead_s / num_clients - self.base_s[group])
        self.measured[group] = True
