"""Files and folders that appear whole or not at all, their fingerprints, and where a new one could be written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_BLOCK_BYTES = 1 << 20


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a place to write at, beside ``path``; it becomes ``path`` at the end of the block, in one step.

    What is written there may be a file or a folder; the folder around it is made where it is missing. Where the block
    raises, or the disk does, ``path`` stays as it was and nothing is left beside it. A folder that is replaced is gone
    for a moment; a file never is. ``durable`` returns only when the machine may lose power without losing it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".new.{path.name}")  # the suffix stays, by which some writers choose a format
    _remove(new)
    try:
        yield new
        if durable:
            for written in [*(new.iterdir() if new.is_dir() else ()), new]:
                _sync(written)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(new, path)
        if durable:
            _sync(path.parent)
    except BaseException:
        with suppress(OSError):
            _remove(new)  # a full disk needs the space
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; raises OSError where the disk does."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; raises OSError where it cannot be read."""
    digest, block = hashlib.sha256(), bytearray(_BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(memoryview(block)[:size])
    return digest.hexdigest()


def nearest_existing(path: Path) -> Path:
    """What exists of the way to a path: the path itself, or the nearest above it.

    >>> nearest_existing(Path("/proc/self/absent/folder"))
    PosixPath('/proc/self')
    """
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Return when a file or the entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
