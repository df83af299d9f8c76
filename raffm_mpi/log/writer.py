"""The writer: rank 0 alone appends rows and commits rounds, so that a kill at any moment leaves whole rounds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from raffm_mpi import __version__
from raffm_mpi.log.reader import Run, open_run
from raffm_mpi.log.schema import FORMAT, SCHEMA_VERSION, STATUSES, TABLES, Column, Table, log_file

# HDF5 1.10 is the oldest that knows single writer, multiple readers: whatever reads 1.10 reads the log.
LIBVER = ("v110", "v110")
CHUNK_VALUES = 1 << 18
GIVEN_BY_CALLER = ("versions", "commit", "hosts", "num_ranks", "command", "task", "metrics")


class RunLog:
    """The log of a run under way; a row counts when it was committed, a round's rows when its ``rounds`` row was."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._datasets = {(t.name, c.name): file[t.name][c.name] for t in TABLES.values() for c in t.columns}
        self._num_rows = dict.fromkeys(TABLES, 0)
        self._committed = dict.fromkeys(TABLES, 0)
        self._num_commits = 0

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        config: str,
        attributes: Mapping[str, Any],
        dimensions: Sequence[str],
        label_names: Sequence[str],
        ranks: Sequence[tuple[int, str, str, str]],
        file_locking: bool = True,
    ) -> RunLog:
        """Start the log of a run at ``path`` (its folder or ``run.h5`` in it), ready to be followed.

        ``config`` is the resolved YAML. ``attributes`` gives versions (a dict), commit, hosts, num_ranks, command,
        task, metrics and whatever else. ``dimensions`` and ``label_names`` name the columns of submodels/sizes and
        partition/label_counts; ``ranks`` are (rank, host, device, role). Raises ValueError where a log is already.
        """
        path = log_file(path)
        missing = [name for name in GIVEN_BY_CALLER if name not in attributes]
        assert not missing, f"attributes lack {missing}"
        if path.exists():
            raise ValueError(f"'{path}' exists: resume that run, or choose another output folder")
        labels = {"dimensions": list(dimensions), "label_names": list(label_names)}
        own = {"config": config, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        log = cls(_new_file(path, {**attributes, **own}, labels, file_locking))
        log._append_ranks(ranks)
        log._publish(path)
        return log

    @classmethod
    def reopen(
        cls,
        path: str | Path,
        *,
        num_rounds: int,
        attributes: Mapping[str, Any] | None = None,
        ranks: Sequence[tuple[int, str, str, str]] | None = None,
        file_locking: bool = True,
    ) -> RunLog:
        """Resume a log with exactly its first ``num_rounds`` rounds; rows of later rounds are left out.

        The rows are copied to a new file that then takes the old one's place, so a kill on the way loses nothing.
        ``attributes`` and ``ranks`` replace those that changed with the new start. Raises ValueError where the log
        cannot be read or holds fewer rounds.
        """
        path = log_file(path)
        with open_run(path) as old:
            found = int(np.count_nonzero(old.values("rounds", "round") < num_rounds))
            if found != num_rounds:
                raise ValueError(f"'{path}' holds {found} committed rounds, not the {num_rounds} to resume from")
            labels = {c.labels: old.labels(t.name, c.name) for t in TABLES.values() for c in t.columns if c.labels}
            log = cls(_new_file(path, {**old.attributes, **(attributes or {})}, labels, file_locking))
            for table in TABLES.values():
                if table.name != "ranks" or ranks is None:
                    log._copy(table, old, num_rounds)
        log._append_ranks(ranks or [])
        log._publish(path)
        return log

    def append(self, table: str, **columns: Any) -> None:
        """Add rows to a table: arrays or sequences of one length, and scalars, which stand for every row.

        Enumerations take their members' names. Text that is too long is cut between characters.
        """
        schema = TABLES[table]
        names = [column.name for column in schema.columns]
        assert sorted(columns) == sorted(names), f"{table} takes {names}, got {list(columns)}"
        values = {column.name: _encode(table, column, columns[column.name]) for column in schema.columns}
        lengths = {len(values[c.name]) for c in schema.columns if values[c.name].ndim > bool(c.labels)} or {1}
        assert len(lengths) == 1, f"{table} got columns of different lengths: {sorted(lengths)}"
        (length,) = lengths
        widths = {column.name: self._datasets[table, column.name].shape[1:] for column in schema.columns}
        self._write(schema, {name: np.broadcast_to(v, (length, *widths[name])) for name, v in values.items()})

    def commit(self) -> None:
        """Make the appended rows last and show them; rows of a round are held back until its ``rounds`` row is in."""
        round_done = self._num_rows["rounds"] > self._committed["rounds"]
        for table in TABLES.values():
            if round_done or table.shown != "round":
                self._committed[table.name] = self._num_rows[table.name]
        self._file.flush()  # every row is in the file before the commit that shows it
        self._num_commits += 1
        committed = self._file["committed"]
        committed.resize(self._num_commits, axis=0)
        committed[-1] = [*self._committed.values(), self._num_commits]
        self._file.flush()
        if round_done:
            os.fsync(self._file.id.get_vfd_handle())

    def finish(self, status: str, final_model_sha256: str | None = None) -> None:
        """Commit, set the status (finished, failed or interrupted) and close."""
        assert status in STATUSES[1:], f"status {status!r} is not one of {STATUSES[1:]}"
        self.commit()
        # Writing over an attribute of fixed size is allowed while others read; adding one is not.
        self._file.attrs.modify("final_model_sha256", np.bytes_(final_model_sha256 or ""))
        self._file.attrs.modify("status", np.bytes_(status))
        self._file.close()

    def _append_ranks(self, ranks: Sequence[tuple[int, str, str, str]]) -> None:
        for rank, host, device, role in ranks:
            self.append("ranks", rank=rank, host=host, device=device, role=role)

    def _copy(self, table: Table, old: Run, num_rounds: int) -> None:
        """Take over the rows of rounds before ``num_rounds``, or all rows of a table that knows no rounds."""
        rows = {column.name: old.values(table.name, column.name) for column in table.columns}
        kept = rows["round"] < num_rounds if "round" in rows else slice(None)
        self._write(table, {name: values[kept] for name, values in rows.items()})

    def _write(self, table: Table, rows: Mapping[str, np.ndarray[Any, Any]]) -> None:
        start = self._num_rows[table.name]
        for name, values in rows.items():
            _put(self._datasets[table.name, name], start, values)
        self._num_rows[table.name] = start + len(rows[table.columns[0].name])

    def _publish(self, path: Path) -> None:
        """Commit what is there, let readers in, and move the file to its place in one step."""
        self._file.swmr_mode = True
        self.commit()
        os.replace(self._file.filename, path)


def _new_file(
    path: Path, attributes: Mapping[str, Any], labels: Mapping[str, Sequence[str]], locking: bool
) -> h5py.File:
    """A file beside ``path`` with every attribute and dataset that the log will ever have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # "best-effort" takes locks where the file system has them; readers and the writer need none after this function.
    file = h5py.File(f"{path}.new", "w", libver=LIBVER, locking="best-effort" if locking else False)
    own = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "software": FORMAT, "software_version": __version__}
    for name, value in _flat({**attributes, **own}):
        file.attrs[name] = value
    file.attrs.create("status", np.bytes_(STATUSES[0]), dtype=h5py.string_dtype("utf-8", max(map(len, STATUSES))))
    file.attrs.create("final_model_sha256", np.bytes_(""), dtype=h5py.string_dtype("utf-8", 64))
    for table in TABLES.values():
        file.create_group(table.name).attrs["description"] = table.description
        for column in table.columns:
            _new_dataset(file[table.name], table, column, labels.get(column.labels, ()))
    names = [*TABLES, "commit"]
    commits = file.create_dataset(
        "committed", (0, len(names)), "int64", maxshape=(None, len(names)), chunks=(64, len(names))
    )
    commits.attrs["tables"] = names
    commits.attrs["description"] = "rows of each table at each commit; the last column counts commits from 1"
    return file


def _new_dataset(group: h5py.Group, table: Table, column: Column, labels: Sequence[str]) -> None:
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


def _put(dataset: h5py.Dataset, start: int, values: np.ndarray[Any, Any]) -> None:
    """Write rows from ``start`` on; by h5py's lower interface, in a third of the time of ``dataset[a:b] =``."""
    dataset.id.set_extent((start + len(values), *values.shape[1:]))
    if values.size:
        space = dataset.id.get_space()
        space.select_hyperslab((start, 0)[: values.ndim], values.shape)
        memory = h5py.h5s.create_simple(values.shape)
        dataset.id.write(memory, space, np.ascontiguousarray(values), dataset.id.get_type())


def _flat(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Attributes with a dict as one attribute a key (versions.python), and those that are None left out."""
    for name, value in attributes.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        elif value is not None:
            yield name, value


def _encode(table: str, column: Column, value: Any) -> np.ndarray[Any, Any]:
    """A value or a sequence of them as the column stores it, checked to lose nothing but a text's end."""
    where = f"{table}.{column.name}"
    array: np.ndarray[Any, Any]
    if column.members:
        names = np.asarray(value, dtype=object)
        unknown = set(names.flat) - set(column.members)
        assert not unknown, f"{where} got {unknown}; members are {column.members}"
        array = np.vectorize(column.members.index, otypes=[column.dtype])(names)
    elif column.is_text:
        array = np.vectorize(_cut, otypes=[column.dtype])(np.asarray(value, dtype=object), int(column.dtype[1:]))
    else:
        given = np.asarray(value)
        assert np.can_cast(given.dtype, column.dtype, "same_kind"), f"{where} is {column.dtype}, got {given.dtype}"
        array = given.astype(column.dtype)
        assert array.dtype.kind == "f" or np.array_equal(array, given), f"{where} does not fit {column.dtype}"
    assert array.ndim <= 1 + bool(column.labels), f"{where} got shape {array.shape}"
    return array.astype(column.storage, copy=False)


def _cut(text: str, num_bytes: int) -> bytes:
    """UTF-8 of at most so many bytes, cut between characters."""
    return text.encode("utf-8", "replace")[:num_bytes].decode("utf-8", "ignore").encode("utf-8")
