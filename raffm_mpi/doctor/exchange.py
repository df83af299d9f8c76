"""The ranks as the doctor meets them: the transport of a run, or this process alone where MPI has none for it."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import numpy as np

from raffm_mpi.doctor.findings import Finding, fail
from raffm_mpi.doctor.launcher import Launcher
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.transport import Transport
from raffm_mpi.messages import say

T = TypeVar("T")

CONNECT_S = 120.0  # that the ranks may take to find each other
SILENCE_S = 600.0  # that a rank may take to gather its facts: libraries load slowly from a busy file system


@dataclass
class Alone:
    """This process where no MPI joins it to others, in the words of :class:`Transport`; ``flaw`` says why."""

    flaw: Finding | None = None
    host: str = field(default_factory=socket.gethostname)
    rank: int = 0
    size: int = 1
    node_rank: int = 0
    device_index: int = 0
    survives_failures: bool = False

    @property
    def hosts(self) -> list[str]:
        """The host of every rank."""
        return [self.host]

    def describe(self, text: str) -> list[str]:
        """One line of text from every rank."""
        return [text]

    def together(self, step: Callable[[], T]) -> T:
        """Run a step."""
        return step()

    def broadcast(self, buffer: np.ndarray) -> None:
        """Nothing travels."""

    def reduce(self, buffer: np.ndarray) -> None:
        """Nothing travels."""

    def leave(self, status: int) -> NoReturn:
        """End this process, whose work is done; a silent one ends well, lest mpirun kill the one that speaks."""
        raise SystemExit(status if speaks(self) else 0)

    def abort(self, message: str, status: int = 1) -> NoReturn:
        """End this process with a message."""
        say(message)
        raise SystemExit(status)


Exchange = Transport | Alone


def join() -> Exchange:
    """The transport, or this process alone with what is wrong with MPI."""
    try:
        with _patience(CONNECT_S):
            transport = Transport()
    except UserMistake as error:
        text, _, advice = str(error).rpartition("; ")
        return Alone(fail("MPI", text, advice))
    transport.presence.timeout_s = SILENCE_S
    return transport


def speaks(exchange: Exchange) -> bool:
    """Whether this process prints: rank 0, and where every process takes itself for rank 0, the launcher's first."""
    return exchange.rank == 0 and (exchange.size > 1 or Launcher.of(os.environ).rank == 0)


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
