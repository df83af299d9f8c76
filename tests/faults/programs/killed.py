"""``raffm-mpi`` in which ranks die by SIGKILL where KILLS says, such as ``KILLS="1:training:1 2:reduce:3"``.

Each is rank:phase:round. ``plan``: a plan has arrived; ``broadcast``, ``reduce``: in the middle of that transfer;
``training``, ``evaluation``: after a step or batch; ``commit``: while the server commits, which then kills it (rank 0
too); ``set-up``, with round -1: before the settings are read. A fourth part is another signal, such as SIGTERM.
"""

import os
import signal
from pathlib import Path

from raffm_mpi.cli import main
from raffm_mpi.exchange import chunks
from raffm_mpi.exchange.mpi import MPIRanks
from raffm_mpi.exchange.presence import Phase, Presence
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.federation.plan import Plan
from raffm_mpi.federation.server import Server

RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
PARTS = [[*kill.split(":"), "SIGKILL"][:4] for kill in os.environ["KILLS"].split()]
KILLS = {(int(rank), phase, int(number)): signal.Signals[name] for rank, phase, number, name in PARTS}
PIDS = Path(os.environ["PIDS"])

chunks.CHUNK_BYTES = 4096  # many chunks, so that a transfer has a middle
(PIDS / str(RANK)).write_text(str(os.getpid()))
now = {"round": -1}


def die_at(phase, number=None):
    kill = KILLS.pop((RANK, phase, now["round"] if number is None else number), None)
    if kill:
        os.kill(os.getpid(), kill)


def together(self, step, original=Ranks.together):
    die_at("set-up")
    return original(self, step)


def receive(cls, received, original=Plan.receive.__func__):
    plan = original(cls, received)
    now["round"] = plan.round
    die_at("plan")
    return plan


def transfer(self, buffer, start, original=MPIRanks._transfer):
    phase = {"float32": "broadcast", "int64": "reduce"}.get(str(buffer.dtype).removeprefix("torch."), "other")
    count = {"chunks": 0}

    def counted(chunk):
        count["chunks"] += 1
        if count["chunks"] == 3:
            die_at(phase)
        return start(chunk)

    return original(self, buffer, counted)


def step(self, original=Presence.step):
    die_at({Phase.TRAINING: "training", Phase.EVALUATING: "evaluation"}[self.own.phase], self.own.round)
    original(self)


def commit(self, current, *rest, original=Server._commit):
    for (rank, phase, number), kill in KILLS.items():
        if (phase, number) == ("commit", current.plan.round):
            os.kill(int((PIDS / str(rank)).read_text()), kill)
    original(self, current, *rest)


Plan.receive = classmethod(receive)
Ranks.together = together
MPIRanks._transfer = transfer
Presence.step = step
Server._commit = commit
main()
