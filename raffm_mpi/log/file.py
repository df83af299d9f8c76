"""The HDF5 file of the log: created whole, extended by each commit, and abandoned when the disk fails.

After a failed write HDF5 keeps changes that it can neither write nor forget: closing the file fails, and the process
crashes at exit (HDF5 2.0). So a file is abandoned after its first failure (:meth:`LogFile.let_go`) and not used again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from raffm_mpi import __version__
from raffm_mpi.errors import reason
from raffm_mpi.files import replacing
from raffm_mpi.log.commit import COLUMNS, NO_COMMIT, Commit, Rows
from raffm_mpi.log.flat import flat
from raffm_mpi.log.reader import HDF5_ERRORS, LOG_ERRORS
from raffm_mpi.log.schema import FORMAT, SCHEMA_VERSION, STATUSES, TABLES, Column, Table

# HDF5 1.10 is the oldest release with one writer and many readers (SWMR); every program that reads 1.10 reads the log.
LIBVER = ("v110", "v110")
CHUNK_VALUES = 1 << 18


class LogNotWritten(OSError):
    """The log cannot be written: its disk is full or lost. What was committed before stays readable."""


@contextmanager
def disk_failures(path: Path) -> Iterator[None]:
    """Turn every error that h5py and the reader raise when the disk fails into LogNotWritten."""
    try:
        yield
    except LOG_ERRORS as error:
        cause = re.search("error message = '(.*?)'", str(error))  # HDF5 quotes the system's message within its own
        raise LogNotWritten(f"'{path}' cannot be written: {cause[1] if cause else reason(error)}") from None


class LogFile:
    """A log open for writing. After an error of :data:`HDF5_ERRORS` only :meth:`let_go` may be called."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        # Datasets stay open: HDF5 writes rows when a dataset is closed, and h5py drops an error that comes then.
        self._datasets: dict[tuple[str, str], h5py.Dataset] = {}
        self._commits: h5py.Dataset = None

    @classmethod
    def create(
        cls, path: Path, attributes: Mapping[str, Any], labels: Mapping[str, Sequence[str]], locking: bool, rows: Rows
    ) -> tuple[LogFile, Commit]:
        """A new file with its first commit, which readers may follow; it replaces ``path`` once it is whole."""
        log = None
        try:
            with replacing(path) as new:
                # "best-effort": locked where the file system has locks.
                log = cls(h5py.File(new, "w", libver=LIBVER, locking="best-effort" if locking else False))
                log._lay_out(attributes, labels)
                log._file.swmr_mode = True
                commit = log.commit(NO_COMMIT, rows)
                log.sync()
        except BaseException:
            if log is not None:
                log.let_go()
            raise
        return log, commit

    def commit(self, last: Commit, rows: Rows) -> Commit:
        """Write rows after those of the ``last`` commit, then the commit that shows them; returns it.

        Where this fails or is interrupted, the ``last`` commit stays in force and the same call may be repeated.
        """
        for table, columns in rows.items():
            for name, values in columns.items():
                _put(self._datasets[table, name], last.num_rows[table], values)
        self._file.flush()  # every row is in the file before the commit that shows it
        commit = last.followed_by(rows)
        _put(self._commits, last.number, np.array([commit.record]))
        self._file.flush()
        return commit

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        os.fsync(self._file.id.get_vfd_handle())

    def check_place(self, path: Path) -> None:
        """Raise OSError where ``path`` is not this file any more: deleted, replaced, or on a lost disk."""
        if not os.path.samestat(os.stat(path), os.fstat(self._file.id.get_vfd_handle())):
            raise OSError("another file has taken its place")

    def close(self, status: str, final_model_sha256: str) -> None:
        """Set the status and the final model's SHA-256, and close."""
        # While others read, HDF5 allows changing an attribute of fixed size, but not adding one.
        self._file.attrs.modify("final_model_sha256", np.bytes_(final_model_sha256))
        self._file.attrs.modify("status", np.bytes_(status))
        self._file.flush()
        self.sync()
        self._file.close()

    def let_go(self) -> None:
        """Close without writing to the disk: HDF5's pending writes go to a copy in memory, which is dropped.

        The file stays as a kill would leave it.
        """
        with suppress(*HDF5_ERRORS):
            handle = self._file.id.get_vfd_handle()
            stand_in = _stand_in(handle)
            os.dup2(stand_in, handle)
            os.close(stand_in)
        for step in (
            self._file.flush,
            self._file.flush,
            self._file.close,
        ):  # the first flush may raise the old error again
            with suppress(*HDF5_ERRORS):
                step()

    def _lay_out(self, attributes: Mapping[str, Any], labels: Mapping[str, Sequence[str]]) -> None:
        """Create every attribute and dataset; none can be added while others read."""
        file = self._file
        own = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "software": FORMAT, "software_version": __version__}
        for name, value in flat({**attributes, **own}):
            if value is not None and value != {}:
                file.attrs[name] = value
        file.attrs.create("status", np.bytes_(STATUSES[0]), dtype=h5py.string_dtype("utf-8", max(map(len, STATUSES))))
        file.attrs.create("final_model_sha256", np.bytes_(""), dtype=h5py.string_dtype("utf-8", 64))
        for table in TABLES.values():
            file.create_group(table.name).attrs["description"] = table.description
            for column in table.columns:
                dataset = _new_dataset(file[table.name], table, column, labels.get(column.labels, ()))
                self._datasets[table.name, column.name] = dataset
        width = len(COLUMNS)
        commits = file.create_dataset("committed", (0, width), "int64", maxshape=(None, width), chunks=(64, width))
        self._commits = commits
        commits.attrs["tables"] = COLUMNS
        commits.attrs["description"] = (
            "rows of each table at each commit; crc32 of their stored bytes, each commit's new rows table by table and "
            "column by column, seeded with the commit before; the last column counts commits from 1"
        )


def _stand_in(handle: int) -> int:
    """A descriptor of a copy in memory of an open file; HDF5 writes to it, and readers of this process read it."""
    memory = os.memfd_create("abandoned")
    try:
        with open(handle, "rb", closefd=False) as disk, open(memory, "wb", closefd=False) as copy:
            shutil.copyfileobj(disk, copy)
    except OSError:  # every read must fail then: given zeros, HDF5 would read again for ever
        os.close(memory)
        memory = os.open(os.devnull, os.O_WRONLY)
    return memory


def _new_dataset(group: h5py.Group, table: Table, column: Column, labels: Sequence[str]) -> h5py.Dataset:
    width = [len(labels)] if column.labels else []
    at_least_one = [max(len(labels), 1)] if column.labels else []  # HDF5 refuses chunks and maxima of size 0
    dataset = group.create_dataset(
        column.name,
        shape=(0, *width),
        dtype=column.storage,
        maxshape=(None, *at_least_one),
        chunks=(max(1, min(table.chunk_rows, CHUNK_VALUES // max(at_least_one, default=1))), *at_least_one),
        # A compressed chunk that grows moves and leaves a hole (10 clients a round: 35 times the size), so only
        # what is written once is compressed.
        compression="gzip" if table.shown == "once" else None,
        shuffle=table.shown == "once",
    )
    dataset.attrs["unit"] = column.unit
    dataset.attrs["description"] = column.description
    if column.labels:
        dataset.attrs.create(column.labels, list(labels), (len(labels),), h5py.string_dtype())
    return dataset


def _put(dataset: h5py.Dataset, start: int, values: np.ndarray[Any, Any]) -> None:
    """Write rows from ``start`` on, by h5py's low-level interface: a third of the time of ``dataset[a:b] = …``."""
    dataset.id.set_extent((start + len(values), *values.shape[1:]))
    if values.size:
        space = dataset.id.get_space()
        space.select_hyperslab((start, 0)[: values.ndim], values.shape)
        memory = h5py.h5s.create_simple(values.shape)
        dataset.id.write(memory, space, np.ascontiguousarray(values), dataset.id.get_type())
