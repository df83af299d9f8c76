"""Runs that wait in the middle of a round until the test has acted, so that no test depends on how fast they are."""

from __future__ import annotations

import os
import time
from pathlib import Path

FOLDER = "HELD"  # the environment variable with the folder of the marks
ROUND = 2


def hold() -> None:
    """Have this process, as a group, leave ``held-RANK`` in the folder HELD in its first client of round 2, and wait.

    It goes on where ``let-go`` appears there or the run shall stop. A group that finds its mark does not wait, so a run
    that is started again runs through.
    """
    from raffm_mpi.exchange.presence import Phase, Presence

    folder = Path(os.environ[FOLDER])

    def step(self, original=Presence.step):
        mark = folder / f"held-{self.rank}"
        if (self.own.phase, self.own.round) == (Phase.TRAINING, ROUND) and not mark.exists():
            mark.touch()
            while not (self.stopping or (folder / "let-go").exists()):
                self.pulse()
                time.sleep(0.05)
        original(self)

    Presence.step = step
