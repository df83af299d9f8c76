"""The ranks of a run in one interface: several that MPI joins, or one process alone.

What travels between them is a buffer, a row of a table or a line of text. :func:`raffm_mpi.exchange.join.join` decides
which implementation a process gets.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import numpy as np

from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.chunks import Buffer
from raffm_mpi.exchange.launcher import Launcher
from raffm_mpi.exchange.presence import Mailbox, Presence
from raffm_mpi.messages import say

T = TypeVar("T")


class SharedMistake(UserMistake):
    """A mistake that :meth:`Ranks.together` has told to every rank: all of them end in the same way."""


class Left(SystemExit):
    """This rank has nothing left to do; ``code`` is its exit status. :meth:`Ranks.leave` raises it, nothing else."""


class Ranks(ABC):
    """All living ranks of the run, as one of them sees them.

    ``rank`` is this one's number at the start, which it keeps; rank 0 is the server. Every rank calls the methods that
    move something in the same order. They wait, asleep, and while they wait they raise what :meth:`Presence.look`
    raises, RanksFailed where ranks have died that a run can do without, and ServerFailed where rank 0 has.
    """

    def __init__(
        self,
        rank: int,
        hosts: Sequence[str],
        node: Sequence[int],
        mailbox: Mailbox,
        library: str,
        survives_failures: bool = False,
    ) -> None:
        self.rank = rank
        self.hosts = list(hosts)  # of every rank at the start
        self.host = self.hosts[rank]
        self.members = list(range(len(self.hosts)))  # the living, the server first
        self.node_rank = node.index(rank)  # among the ranks of this host, which ``node`` holds, ascending
        self.node_size = len(node)
        # The groups of a host take its devices first; the server, which only evaluates, comes last.
        self.device_index = sorted(node, key=lambda number: (number == 0, number)).index(rank)
        self.library = library  # the release of the MPI library, for the log
        self.survives_failures = survives_failures
        self.bytes_moved = 0  # by this rank's broadcasts and reductions
        self.waited_s = 0.0  # for the others, before transfers
        self.presence = Presence(rank, self.hosts, mailbox)

    @property
    def size(self) -> int:
        """Living ranks."""
        return len(self.members)

    @property
    def speaks(self) -> bool:
        """Whether this rank prints what all have to say.

        Rank 0 does; where a launcher started several processes that MPI did not join, only the launcher's first does.
        """
        return self.rank == 0 and (len(self.hosts) > 1 or Launcher.of(os.environ).rank == 0)

    @abstractmethod
    def meet(self) -> None:
        """Wait, asleep, until every rank is here."""

    @abstractmethod
    def broadcast(self, buffer: Buffer) -> None:
        """Send a contiguous buffer of any shape and dtype from rank 0 to all, in place."""

    @abstractmethod
    def reduce(self, buffer: Buffer) -> None:
        """Sum a contiguous buffer of int64 over all ranks into rank 0's, in place; the others' stay as they are."""

    @abstractmethod
    def merge(self, table: np.ndarray) -> None:
        """Bring rows that one rank each has filled, all else zero, together on rank 0, in place.

        ``table`` is contiguous and of any dtype, structured ones included: its bytes are combined by OR.
        """

    @abstractmethod
    def describe(self, text: str) -> list[str]:
        """One text of up to 8192 bytes from every living rank, in rank order, on all ranks; what is longer is cut."""

    @property
    @abstractmethod
    def have_failed(self) -> bool:
        """Whether :meth:`recover` must come next; asked between two clients, where nothing is under way."""

    @abstractmethod
    def recover(self) -> list[int]:
        """Go on without the ranks that died, which are returned; every living rank comes here on RanksFailed.

        Raises ServerFailed, and Dismissed where the run has ended meanwhile.
        """

    @abstractmethod
    def await_dismissal(self) -> NoReturn:
        """Wait, on a group that was told to stop, until the server lets all go; raises Dismissed then."""

    @abstractmethod
    def dismiss(self) -> None:
        """Let every group go; the other side is :meth:`await_dismissal`."""

    @abstractmethod
    def leave(self, status: int) -> NoReturn:
        """End this rank, whose work is done, as every rank's is; raises Left, or ends the process at once."""

    @abstractmethod
    def _end_others(self, status: int) -> None:
        """End the other ranks at once."""

    def abort(self, message: str, status: int = 1) -> NoReturn:
        """End every rank at once with an exit status, and with a message that names this one."""
        say(f"rank {self.rank} of {len(self.hosts)} on {self.host}: {message}")
        flush()
        self._end_others(status)
        os._exit(status)

    def broadcast_text(self, text: str) -> str:
        """Send a text of any length from rank 0 to all; returns it."""
        encoded = np.frombuffer(text.encode(), np.uint8).copy()
        length = np.array([len(encoded)], np.int64)
        self.broadcast(length)
        received = encoded if self.rank == 0 else np.zeros(int(length[0]), np.uint8)
        self.broadcast(received)
        return received.tobytes().decode()

    def together(self, step: Callable[[], T]) -> T:
        """Run a step on every rank; returns each rank's own result.

        Raises SharedMistake on all ranks, with the sentences of every rank, where the step raises UserMistake on one.
        Any other error of the step goes on at once, on its rank alone.
        """
        mistake, result = "", None
        try:
            result = step()
        except UserMistake as error:
            mistake = str(error)
        mistakes = [text for text in self.describe(mistake) if text]
        if mistakes:
            raise SharedMistake("\n".join(dict.fromkeys(mistakes)))
        return result  # type: ignore[return-value]


def flush() -> None:
    """Write out what was printed, for a process that may end at once."""
    sys.stdout.flush()
    sys.stderr.flush()
