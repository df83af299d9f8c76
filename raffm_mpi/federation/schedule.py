"""Which group trains which client: longest processing time first, by predicted cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_FLOPS_PER_S = 1e10  # a group's speed until it has been measured
_BASE_S = 0.01  # a client's fixed cost until it has been measured
_MEMORY = 0.5  # weight of the newest measurement


@dataclass
class Schedule:
    """Predicts seconds from FLOPs, deals clients to groups, and learns each group's speed from its measurements."""

    num_groups: int
    flops_per_s: np.ndarray = field(init=False)  # [num_groups]
    base_s: np.ndarray = field(init=False)  # [num_groups], a client's fixed cost
    measured: np.ndarray = field(init=False)  # bool [num_groups], whether a group has been measured yet

    def __post_init__(self) -> None:
        self.flops_per_s = np.full(self.num_groups, _FLOPS_PER_S)
        self.base_s = np.full(self.num_groups, _BASE_S)
        self.measured = np.zeros(self.num_groups, bool)

    def assign(self, flops: np.ndarray, living: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Deal clients of the given FLOPs to the living groups, to all groups if left out.

        The costliest client goes first; each goes to the group that would finish it earliest (Graham, 1969). Returns
        the group of each client, int64 [clients], and the predicted seconds of each group, float64 [num_groups].
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
        learned = {"flops_per_s": self.flops_per_s, "base_s": self.base_s, "measured": self.measured}
        return {name: values.tolist() for name, values in learned.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` returned, if it had as many groups; results do not depend on it."""
        if len(state.get("measured", ())) == self.num_groups:
            self.flops_per_s, self.base_s = np.array(state["flops_per_s"]), np.array(state["base_s"])
            self.measured = np.array(state["measured"])

    def correct(self, group: int, flops: float, train_s: float, num_clients: int, overhead_s: float) -> None:
        """Learn a group's speed from the FLOPs and seconds of its steps, its fixed cost from the remaining seconds."""
        if num_clients == 0 or train_s <= 0:
            return
        weight = _MEMORY if self.measured[group] else 1.0
        self.flops_per_s[group] += weight * (flops / train_s - self.flops_per_s[group])
        self.base_s[group] += weight * (overhead_s / num_clients - self.base_s[group])
        self.measured[group] = True
