"""The state of a run on the disk: when a checkpoint is written, what it holds, and where a resumed round begins."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raffm_mpi.config import ReliabilitySettings
from raffm_mpi.federation.plan import Round
from raffm_mpi.federation.tally import CLIENT_REPORT, Tally
from raffm_mpi.recovery import checkpoint as checkpoints
from raffm_mpi.recovery.checkpoint import MODEL, OPTIMIZER, Checkpoint
from raffm_mpi.recovery.disk import Disk
from raffm_mpi.recovery.resume import Start


class RunState:
    """Writes the checkpoints of a run, and knows the last round that a checkpoint holds."""

    def __init__(self, output: Path, settings: ReliabilitySettings, start: Start, disk: Disk) -> None:
        self.output = output
        self.settings = settings
        self.start = start
        self.disk = disk
        self.saved: Checkpoint | None = start.checkpoint
        self._partial = start.partial

    @property
    def saved_round(self) -> int:
        """The last round whose state is in a checkpoint; -1 without one."""
        return self.saved.round if self.saved else -1

    def is_due(self, number: int) -> bool:
        """Whether the settings ask for a checkpoint after a round."""
        every = self.settings.checkpoint_every
        return every is not None and (number + 1) % every == 0

    def save(
        self,
        number: int,
        tensors: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        schedule: Mapping[str, Any],
        virtual_s: float,
    ) -> tuple[Checkpoint, float]:
        """Write the state after a round; returns the checkpoint and the seconds that writing it took."""
        start = time.perf_counter()
        own = {"schedule": schedule, "virtual_s": virtual_s}
        state = {"run_id": self.start.run_id, **own, "log": {"num_rounds": number + 1}}
        kept = self.settings.checkpoints_kept
        parts = {MODEL: tensors, **({OPTIMIZER: optimizer} if optimizer else {})}
        self.saved = self.disk.write(lambda: checkpoints.save(self.output, number, parts, state, kept))
        return self.saved, time.perf_counter() - start

    def save_partial(self, current: Round, tally: Tally) -> None:
        """Write the sums and reports of a round that stops; the round before it has been saved."""
        reports = torch.from_numpy(tally.reports.view("u1").copy())
        state = {
            "run_id": self.start.run_id,
            "round": current.plan.round,
            "attempt": current.plan.attempt,
            "num_open": len(tally.open),
            "base_sha256": self.saved.state["model_sha256"] if self.saved else None,
        }
        self.disk.write(lambda: checkpoints.save_partial(self.output, tally.total.packed.tensors, reports, state))

    def resumed_tally(self, current: Round) -> Tally | None:
        """The sums and reports of this round that a stopped run had saved, once; None where there are none."""
        if self._partial is None:
            return None
        partial, self._partial = self._partial, None
        state = partial.checkpoint.state
        if (state["round"], state["attempt"]) != (current.plan.round, current.plan.attempt):
            return None
        tally = Tally.empty(current)
        tally.reports[:] = partial.reports.numpy().view(CLIENT_REPORT)
        for name, tensor in partial.sums.items():
            tally.total.packed.tensors[name].copy_(tensor)
        return tally

    def committed(self) -> None:
        """Forget what was saved of a round before it was committed."""
        checkpoints.forget_partial(self.output)
