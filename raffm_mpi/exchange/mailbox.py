"""Small messages between two ranks over MPI, beside the collectives."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import numpy as np

from raffm_mpi.exchange.presence import Status

_TAG = 1
_ASK_S = 0.5  # between two questions to MPI, who is dead


class MPIMailbox:
    """Messages of int64 words over a communicator of their own, which is never revoked.

    ``mpi`` is the module ``mpi4py.MPI``. ``asks_for_failures`` is whether MPI can tell which ranks are dead.
    """

    def __init__(self, mpi: Any, comm: Any, asks_for_failures: bool) -> None:
        self._mpi, self._comm = mpi, comm
        self._size = len(Status().words())
        self._sending: list[tuple[Any, np.ndarray]] = []  # requests with the buffers that they read
        self._failed: set[int] = set()
        self._asks = asks_for_failures
        self._asked = 0.0

    def post(self, rank: int, words: np.ndarray) -> None:
        """Send int64 words to a rank; nothing happens if it is dead."""
        with suppress(self._mpi.Exception):
            self._sending = [item for item in self._sending if not item[0].Test()]
        with suppress(self._mpi.Exception):
            self._sending.append((self._comm.Isend(words, dest=rank, tag=_TAG), words))

    def pick_up(self) -> tuple[int, np.ndarray] | None:
        """The next message that came, with its sender."""
        status = self._mpi.Status()
        words = np.zeros(self._size, np.int64)
        try:
            if not self._comm.Iprobe(source=self._mpi.ANY_SOURCE, tag=_TAG, status=status):
                return None
            self._comm.Recv(words, source=status.Get_source(), tag=_TAG)
        except self._mpi.Exception:
            self._note_failures()
            return None
        return status.Get_source(), words

    def failed(self) -> set[int]:
        """The ranks that are known to be dead."""
        now = time.monotonic()
        if self._asks and now - self._asked > _ASK_S:  # looking for messages does not always tell
            self._asked = now
            self._note_failures()
        return self._failed

    def _note_failures(self) -> None:
        """Learn who is dead, so that the next look at the mailbox succeeds; raises where MPI knows no such thing."""
        self._comm.Ack_failed()
        failed = self._comm.Get_failed()
        numbers = self._mpi.Group.Translate_ranks(failed, range(failed.Get_size()), self._comm.Get_group())
        self._failed = set(numbers)
