"""A run in one process, which is server and client group: nothing travels, and no MPI library is needed."""

from __future__ import annotations

import socket
from typing import NoReturn

import numpy as np

from raffm_mpi.exchange.chunks import Buffer
from raffm_mpi.exchange.ranks import Left, Ranks, flush


class LoneRank(Ranks):
    """The only rank. Signals and the end of the allocation stop it as they stop many; no other rank can fail."""

    def __init__(self, host: str = "") -> None:
        super().__init__(0, [host or socket.gethostname()], [0], _NoMailbox(), library="none")

    def meet(self) -> None:
        """Nobody to wait for."""

    def broadcast(self, buffer: Buffer) -> None:
        """Nothing travels."""

    def reduce(self, buffer: Buffer) -> None:
        """The sum is there."""
        assert str(buffer.dtype).endswith("int64")

    def merge(self, table: np.ndarray) -> None:
        """All rows are there."""

    def describe(self, text: str) -> list[str]:
        return [text]

    @property
    def have_failed(self) -> bool:
        return False

    def recover(self) -> list[int]:
        raise AssertionError("there is no other rank that could have died")

    def await_dismissal(self) -> NoReturn:
        raise AssertionError("there is no server to wait for")

    def dismiss(self) -> None:
        """Nobody to let go."""

    def leave(self, status: int) -> NoReturn:
        """End this process; one that does not speak ends with status 0, lest the launcher kill the one that does."""
        self.presence.ignore_signals()
        flush()
        raise Left(status if self.speaks else 0)

    def _end_others(self, status: int) -> None:
        """Nobody is there."""


class _NoMailbox:
    """A mailbox to which nobody writes."""

    def post(self, rank: int, words: np.ndarray) -> None:
        raise AssertionError(f"there is no rank {rank}")

    def pick_up(self) -> None:
        return None

    def failed(self) -> set[int]:
        return set()
