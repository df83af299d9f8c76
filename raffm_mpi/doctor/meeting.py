"""The ranks as the doctor meets them: those of a run, or this process alone with what is wrong with MPI."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from raffm_mpi.doctor.findings import Finding, fail, warn
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.join import join
from raffm_mpi.exchange.launcher import Launcher
from raffm_mpi.exchange.lone import LoneRank
from raffm_mpi.exchange.mpi import load_mpi
from raffm_mpi.exchange.ranks import Ranks

CONNECT_S = 120.0  # that the ranks may take to find each other
SILENCE_S = 600.0  # that a rank may take to gather its facts: libraries load slowly from a busy file system


def meet() -> tuple[Ranks, Finding | None]:
    """The ranks, and what is wrong with MPI, if anything.

    A process without a launcher loads the library, too: its run needs none, but a run on several ranks will.
    """
    is_launched = bool(Launcher.of(os.environ).name)
    try:
        with _patience(CONNECT_S):
            ranks = join()
            load_mpi()
    except UserMistake as error:
        text, _, advice = str(error).rpartition("; ")
        if is_launched:
            return LoneRank(), fail("MPI", text, advice)
        return LoneRank(), warn("MPI", f"{text}: one process needs none", f"for a run on several ranks {advice}")
    ranks.presence.timeout_s = SILENCE_S
    return ranks, None


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """End this process where what follows takes longer: MPI's first messages wait for ever for a blocked network."""
    timer = threading.Timer(seconds, _give_up, [seconds])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(seconds: float) -> None:
    if Launcher.of(os.environ).rank == 0:
        advice = (
            "let MPI use a network that joins all hosts (with Open MPI --mca btl_tcp_if_include NAME; ip addr lists "
            "names), and open the firewall between them"
        )
        print(fail("MPI", f"the ranks did not reach each other within {seconds:.0f} s", advice), flush=True)
    sys.stdout.flush()
    os._exit(1)
