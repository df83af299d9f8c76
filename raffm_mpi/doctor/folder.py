"""Try the output folder: write an HDF5 file, lock it, have another process follow it, look for it from every host.

Run as a program, this module is the other process: it tries to lock the file, waits for a line, and reads the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raffm_mpi.doctor.findings import listed
from raffm_mpi.exchange.probe import apart_from_the_job
from raffm_mpi.exchange.ranks import Ranks

HELD, FREE, NO_LOCKS, MISSING = "held", "free", "no locks", "missing"  # what another process finds of the lock
_VALUE = 42
_PLAIN_BYTES = 1 << 20  # written as a plain file before HDF5 writes anything
_TIMEOUT_S = 30.0
_APPEARS_S = 5.0  # a new file must show on another host within this; NFS remembers for 3 s that it was not there


@dataclass(frozen=True)
class Folder:
    """What was found: ``error`` where no file could be written, else what other processes see of the file.

    ``lock`` is what a second process on rank 0's host finds of the lock, ``followed`` is whether that process reads
    what is being written, and ``elsewhere`` is what each other host finds of the lock.
    """

    place: str
    hdf5: str
    error: str = ""
    lock: str = MISSING
    followed: bool = False
    elsewhere: dict[str, str] | None = None


def try_folder(place: Path, locking: bool, ranks: Ranks) -> Folder | None:
    """On rank 0, write a file as the log is written; on the others, look for it and return None."""
    if ranks.rank > 0:
        _look_from_here(ranks)
        return None
    import h5py

    path = place / f".raffm-mpi-doctor-{uuid.uuid4().hex}.h5"
    errors: list[str] = []
    with _closing(path, locking, errors) as file, _second_process(path) as other:
        lock = _answer(other)
        elsewhere = _look_from_elsewhere(ranks, str(path) if file else "")
        followed = file is not None and _is_followed(file, other, errors)
    return Folder(str(place), h5py.version.hdf5_version, listed(errors, 1), lock, followed, elsewhere)


def try_lock(path: Path) -> str:
    """What a process finds that tries to lock a file: HELD, FREE, NO_LOCKS or MISSING."""
    try:
        with path.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return FREE
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return HELD if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else NO_LOCKS


@contextmanager
def _closing(path: Path, locking: bool, errors: list[str]) -> Iterator[Any]:
    """A new file, made as the log is and removed afterwards; None, and a sentence in ``errors``, where that fails."""
    import h5py

    from raffm_mpi.log.file import LIBVER, LogFile

    file = None
    with _noting(errors):
        with tempfile.TemporaryFile(dir=path.parent) as plain:  # HDF5 crashes at exit where a disk or quota fills up
            plain.write(bytes(_PLAIN_BYTES))
            plain.flush()
            os.fsync(plain.fileno())
        file = h5py.File(path, "w", libver=LIBVER, locking="best-effort" if locking else False)
        file.create_dataset("value", (0,), "int64", maxshape=(None,), chunks=(1,))
        file.flush()
    try:
        yield None if errors else file
    finally:
        if file and not errors:
            with _noting(errors):
                file.close()
        if file and errors:
            LogFile(file).let_go()
        with suppress(OSError):
            path.unlink()


@contextmanager
def _second_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=apart_from_the_job(os.environ),
    )
    patience = threading.Timer(_TIMEOUT_S, process.kill)
    patience.start()
    try:
        yield process
    finally:
        patience.cancel()
        process.kill()
        process.communicate()


@contextmanager
def _noting(errors: list[str]) -> Iterator[None]:
    """Put a sentence for what h5py raises into ``errors``."""
    from raffm_mpi.log.file import LogNotWritten, disk_failures

    try:
        with disk_failures(Path("the folder")):
            yield
    except LogNotWritten as error:
        errors.append(str(error).partition("cannot be written: ")[2])


def _is_followed(file: Any, other: subprocess.Popen[str], errors: list[str]) -> bool:
    """Whether the other process reads a value while the file is open for writing."""
    with _noting(errors):
        file.swmr_mode = True
        file["value"].resize((1,))
        file["value"][0] = _VALUE
        file.flush()
        with suppress(OSError):
            assert other.stdin is not None
            print("read", file=other.stdin, flush=True)
        return _answer(other) == str(_VALUE)
    return False


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _look_from_elsewhere(ranks: Ranks, path: str) -> dict[str, str]:
    """Rank 0's part: what the first rank of every other host finds of a file; nothing for an empty path."""
    ranks.describe(path)
    found = ranks.describe("")
    return {host: state for host, state in zip(ranks.hosts, found, strict=True) if state}


def _look_from_here(ranks: Ranks) -> None:
    """The other ranks' part."""
    path = ranks.describe("")[0]
    asked = bool(path) and ranks.node_rank == 0
    ranks.describe(_wait_for(Path(path)) if asked else "")


def _wait_for(path: Path) -> str:
    deadline = time.monotonic() + _APPEARS_S
    while (state := try_lock(path)) == MISSING and time.monotonic() < deadline:
        with suppress(OSError):
            os.listdir(path.parent)  # NFS then asks its server again
        time.sleep(0.1)
    return state


def _be_the_second_process(path: Path) -> None:
    print(try_lock(path), flush=True)
    sys.stdin.readline()
    import h5py

    with h5py.File(path, "r", swmr=True) as file:
        print(int(file["value"][0]), flush=True)


if __name__ == "__main__":
    _be_the_second_process(Path(sys.argv[1]))
