"""The reader: every committed round of a run that has finished, goes on, or was killed."""

from __future__ import annotations

import ctypes
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import yaml

from raffm_mpi.errors import UserMistake, sentence
from raffm_mpi.log.commit import NO_COMMIT, Commit
from raffm_mpi.log.flat import flat
from raffm_mpi.log.schema import FORMAT, SCHEMA_VERSION, TABLES, log_file

if TYPE_CHECKING:
    import pandas as pd

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
READ_ATTEMPTS = 30  # 2^30 ns: about a second
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError)  # what h5py raises on a broken file or disk
LOG_ERRORS = (*HDF5_ERRORS, UserMistake)  # what h5py and this reader raise on a broken log


class Run:
    """A log as of the last commit before it was opened; tables are pandas DataFrames, read at first use.

    To follow a run, open it again; that takes milliseconds. Use it as a context manager, or call :meth:`close`.
    """

    def __init__(self, path: Path, file: h5py.File, commits: np.ndarray[Any, Any]) -> None:
        self.path = path
        self.commits = commits  # int64 [commits, len(commit.COLUMNS)]; the last may be incomplete
        self.num_rows = _last(commits).num_rows
        self._file = file

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; tables that were read stay usable."""
        self._file.close()

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Root attributes; ``versions`` is one dict, ``final_model_sha256`` is absent until finished."""
        values: dict[str, Any] = {}
        for key, value in self._file.attrs.items():
            outer, _, inner = key.partition(".")
            target = values.setdefault(outer, {}) if inner else values
            target[inner or outer] = _plain(value)
        if not values.get("final_model_sha256"):
            values.pop("final_model_sha256", None)
        return values

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved settings of the run, as its groups nest them."""
        config: dict[str, Any] = yaml.safe_load(self.attributes["config"])
        return config

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved settings of the run by their dotted names, such as ``training.learning_rate``."""
        return dict(flat(self.config))

    @property
    def status(self) -> str:
        """running, finished, failed or interrupted; a run that was killed stays running."""
        return str(self.attributes["status"])

    @property
    def main_metric(self) -> str:
        """The metric that ``score`` of the evaluation table holds."""
        return str(self.attributes["metrics"][0])

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row a committed round."""
        return self._table("rounds")

    @cached_property
    def clients(self) -> pd.DataFrame:
        """One row a client a round."""
        return self._table("clients")

    @cached_property
    def submodels(self) -> pd.DataFrame:
        """One row a distinct sub-model, with a column for each dimension."""
        return self._table("submodels")

    @cached_property
    def groups(self) -> pd.DataFrame:
        """One row a client group a round."""
        return self._table("groups")

    @cached_property
    def devices(self) -> pd.DataFrame:
        """One row a kind of device that clients have, in the order of its number; empty where they have none."""
        return self._table("devices")

    @cached_property
    def partition(self) -> pd.DataFrame:
        """One row a client of the population, with a column for each label."""
        return self._table("partition")

    @cached_property
    def evaluation(self) -> pd.DataFrame:
        """One row an evaluation of a model on a split."""
        return self._table("evaluation")

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row a metric of an evaluation."""
        return self._table("metrics")

    @cached_property
    def personal(self) -> pd.DataFrame:
        """One row a model whose score was taken on each client's share of the test split."""
        return self._table("personal")

    @cached_property
    def client_scores(self) -> pd.DataFrame:
        """One row a client for each row of personal."""
        return self._table("client_scores")

    @cached_property
    def events(self) -> pd.DataFrame:
        """One row an event, in order."""
        return self._table("events")

    @cached_property
    def checkpoints(self) -> pd.DataFrame:
        """One row a checkpoint."""
        return self._table("checkpoints")

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """One row an MPI rank, as of the last start."""
        return self._table("ranks")

    def values(self, table: str, column: str) -> np.ndarray[Any, Any]:
        """The committed rows of one column as stored: enumerations as codes, text as bytes."""
        try:
            dataset = self._file[table][column]
            rows: np.ndarray[Any, Any] = dataset[: self.num_rows[table]]
        except HDF5_ERRORS as error:
            raise UserMistake(f"'{self.path}' is damaged at {table}/{column}: {sentence(error)}") from None
        return rows

    def rows(self, table: str) -> dict[str, np.ndarray[Any, Any]]:
        """The committed rows of all columns of a table as stored."""
        return {column.name: self.values(table, column.name) for column in TABLES[table].columns}

    def labels(self) -> dict[str, list[str]]:
        """Names along the second axis of the 2-D columns: the dimensions and the label_names."""
        wide = [(table.name, column) for table in TABLES.values() for column in table.columns if column.labels]
        return {c.labels: [str(label) for label in self._file[table][c.name].attrs[c.labels]] for table, c in wide}

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        columns: dict[str, Any] = {}
        for column in TABLES[name].columns:
            values = self.values(name, column.name)
            if column.members:
                columns[column.name] = pd.Categorical.from_codes(
                    values, dtype=pd.CategoricalDtype(list(column.members))
                )
            elif column.is_text:
                columns[column.name] = [value.decode("utf-8") for value in values]
            elif column.labels:
                columns |= dict(zip(self.labels()[column.labels], values.T, strict=True))
            else:
                columns[column.name] = values
        return pd.DataFrame(columns)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each as its values by the columns' names."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def open_run(path: str | Path) -> Run:
    """Open the log of a run, given its folder or its ``run.h5``, also while it is being written or after a kill.

    Raises UserMistake with one sentence if there is none, if it is no raffm_mpi log, if a newer or an older raffm_mpi
    wrote it, or if it is truncated or damaged.
    """
    file_path = log_file(path)
    file = _open_file(file_path)
    try:
        found = _plain(file.attrs.get("format"))
        if found != FORMAT:
            raise UserMistake(f"'{file_path}' is no raffm_mpi log: its attribute format is {found!r}, not {FORMAT!r}")
        version = int(file.attrs["schema_version"])
        if version != SCHEMA_VERSION:
            other = "a newer" if version > SCHEMA_VERSION else "an older"
            raise UserMistake(
                f"'{file_path}' was written by {other} raffm_mpi: "
                f"its schema_version is {version}, this one reads {SCHEMA_VERSION}"
            )
        return Run(file_path, file, _commits(file, file_path))
    except BaseException:
        file.close()
        raise


def _open_file(path: Path) -> h5py.File:
    if not path.is_file():
        raise UserMistake(f"'{path}' does not exist: no run was logged there")
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
    except OSError as error:
        raise UserMistake(f"'{path}' cannot be read: {sentence(error)}") from None
    if not head.startswith(HDF5_SIGNATURE):
        raise UserMistake(f"'{path}' is not an HDF5 file")
    version, flags = head[8:9], head[11:12]  # of the superblock; bit 2: open for SWMR writing, or left so by a kill
    try:
        return _open_hdf5(path, being_written=version == b"\3" and flags[0] & 4 > 0)
    except HDF5_ERRORS as error:
        raise UserMistake(f"'{path}' is truncated or damaged: {sentence(error)}") from None


def _open_hdf5(path: Path, being_written: bool) -> h5py.File:
    """Open for reading as h5py.File does, but give up on broken metadata after :data:`READ_ATTEMPTS`.

    By default HDF5 reads broken metadata 100 times under SWMR, with a sleep that doubles from 1 ns, and so never ends.
    h5py has no setting for that, so HDF5's own function is called, where the library has it.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    set_attempts = getattr(ctypes.CDLL(h5py.h5p.__file__), "H5Pset_metadata_read_attempts", None)
    if set_attempts:
        set_attempts(ctypes.c_int64(access.id), ctypes.c_uint(READ_ATTEMPTS))
    flags = h5py.h5f.ACC_RDONLY | (h5py.h5f.ACC_SWMR_READ if being_written else 0)
    access.set_file_locking(False, True)  # a reader needs no lock, and a lock could stop the writer
    try:
        return h5py.File(h5py.h5f.open(os.fsencode(path), flags, access))
    except OSError as error:
        if "locking flag values don't match" not in str(error):
            raise
    access.set_file_locking(
        True, True
    )  # this process has the file open with locks, and HDF5 wants the same everywhere in a process
    return h5py.File(h5py.h5f.open(os.fsencode(path), flags, access))


def _commits(file: h5py.File, path: Path) -> np.ndarray[Any, Any]:
    """The records of all commits, after checking that the file is long enough to hold the rows of the last one."""
    try:
        commits: np.ndarray[Any, Any] = file["committed"][:]
        num_rows = _last(commits).num_rows
        needed = max(_end(file[t.name][c.name], num_rows[t.name]) for t in TABLES.values() for c in t.columns)
    except HDF5_ERRORS as error:
        raise UserMistake(f"'{path}' is truncated or damaged: {sentence(error)}") from None
    size = os.path.getsize(path)
    if size < needed:
        raise UserMistake(f"'{path}' is truncated: its tables reach to byte {needed}, the file ends at {size}")
    return commits


def _last(commits: np.ndarray[Any, Any]) -> Commit:
    """The last complete commit."""
    complete = np.flatnonzero(commits[:, -1] == np.arange(1, len(commits) + 1))
    return Commit.of_record(commits[complete[-1]]) if len(complete) else NO_COMMIT


def _end(dataset: h5py.Dataset, num_rows: int) -> int:
    """The byte after the chunk of the last row: beyond the file's end HDF5 would read zeros in silence."""
    if not num_rows or not all(dataset.shape[1:]):
        return 0
    if dataset.shape[0] < num_rows:
        raise UserMistake(f"{dataset.name} has {dataset.shape[0]} rows, {num_rows} were committed")
    chunk = dataset.id.get_chunk_info_by_coord((num_rows - 1, 0)[: dataset.ndim])
    if chunk.byte_offset is None:
        raise UserMistake(f"{dataset.name} has lost its last rows")
    return int(chunk.byte_offset + chunk.size)


def _plain(value: Any) -> Any:
    """An attribute as Python's own type."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
