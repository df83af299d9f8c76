"""``raffm-mpi`` in which every group waits, in the middle of its first client of round 2, until the test has acted.

It leaves a mark ``held-RANK`` in the folder HELD then, and goes on where ``let-go`` appears or the run shall stop. A
group that finds its mark does not wait: so a job that is started again runs through.
"""

import os
import time
from pathlib import Path

from raffm_mpi.cli import main
from raffm_mpi.exchange.presence import Phase, Presence

ROUND = 2
FOLDER = Path(os.environ["HELD"])


def step(self, original=Presence.step):
    mark = FOLDER / f"held-{self.rank}"
    if (self.own.phase, self.own.round) == (Phase.TRAINING, ROUND) and not mark.exists():
        mark.touch()
        while not (self.stopping or (FOLDER / "let-go").exists()):
            self.pulse()
            time.sleep(0.05)
    original(self)


Presence.step = step
main()
