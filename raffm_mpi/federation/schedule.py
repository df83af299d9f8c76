"""Which group trains which client: longest processing time first, by predicted cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_FLOPS_PER_S = 1e10  # the first guess of a group's speed, before it has been measured
_BASE_S = 0.01  # the first guess of a client's fixed cost
_LEARNED = ("flops_per_s", "base_s", "measured")
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

    def assign(self, flops: np.ndarray, living: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Deal clients of the given FLOPs to the living groups, all if left out.

        Returns each client's group and each group's predicted seconds.

        The costliest client goes first, each to the group that would finish it earliest (Graham, 1969).
        """
        groups = np.zeros(len(flops), np.int64)
        everybody = np.arange(self.num_groups)
        is_living = np.isin(everybody, everybody if living is None else living)
        busy_s = np.where(is_living, 0.0, np.inf)
        for client in np.argsort(-flops, kind="stable"):
            done_s = busy_s + flops[client] / self.flops_per_s + self.base_s
            groups[client] = done_s.argmin()
            busy_s[groups[client]] = done_s.min()
        return groups, np.where(is_living, busy_s, 0.0)

    def state(self) -> dict[str, Any]:
        """What was learned, as JSON takes it."""
        return {name: getattr(self, name).tolist() for name in _LEARNED}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned, if it was of as many groups: it shows in no result."""
        if len(state.get("measured", ())) == self.num_groups:
            for name in _LEARNED:
                setattr(self, name, np.array(state[name]))

    def correct(self, group: int, flops: float, train_s: float, num_clients: int, overhead_s: float) -> None:
        """Learn from what a group measured: FLOPs and seconds of its training steps, and the rest."""
        if num_clients == 0 or train_s <= 0:
            return
        weight = _MEMORY if self.measured[group] else 1.0
        self.flops_per_s[group] += weight * (flops / train_s - self.flops_per_s[group])
        self.base_s[group] += weight * (overhead_s / num_clients - self.base_s[group])
        self.measured[group] = True
