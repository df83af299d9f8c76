"""Checkpoints, and how long a run waits for ranks and disks (docs/reliability.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raffm_mpi.config.base import PositiveInt, Seconds, SettingsGroup


class ReliabilitySettings(SettingsGroup):
    """Checkpoints, and how long a run waits before it gives up on a rank or a disk."""

    checkpoint_every: PositiveInt | None = 1
    """Rounds between two checkpoints; null: none is written."""
    checkpoints_kept: PositiveInt = 2
    """The newest checkpoints, which stay on the disk."""
    start_timeout_s: Seconds = 300.0
    """Seconds that supervise gives all ranks to meet before it starts them again."""
    hang_timeout_s: Seconds = 1800.0
    """Seconds without a sign of life after which a rank counts as dead."""
    disk_patience_s: Annotated[float, Field(ge=0)] = 600.0
    """Seconds for which a write that fails is tried again."""
    stop_before_end_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds before the end of its allocation at which a job stops by itself, with its state saved."""

    def without_effect(self) -> dict[str, str]:
        return {"checkpoints_kept": "goes with checkpoint_every, which is null"} if not self.checkpoint_every else {}
