"""Rows as the schema stores them, checked when they are appended: writing them can then fail only at the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raffm_mpi.log.schema import Column, Table


def encode_rows(
    table: Table, columns: Mapping[str, Any], labels: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray[Any, Any]]:
    """The stored form of a table's columns, each an array, a sequence, or a scalar that stands for every row.

    ``labels`` names the second axis of 2-D columns. Returns copies of one length. AssertionError where the schema does
    not allow the values.
    """
    names = [column.name for column in table.columns]
    assert sorted(columns) == sorted(names), f"{table.name} takes {names}, got {list(columns)}"
    values = {column.name: _encode(table.name, column, columns[column.name]) for column in table.columns}
    lengths = {len(values[c.name]) for c in table.columns if values[c.name].ndim > bool(c.labels)} or {1}
    assert len(lengths) == 1, f"{table.name} got columns of different lengths: {sorted(lengths)}"
    (length,) = lengths
    widths = {c.name: (len(labels[c.labels]),) if c.labels else () for c in table.columns}
    return {name: np.broadcast_to(value, (length, *widths[name])) for name, value in values.items()}


def _encode(table: str, column: Column, value: Any) -> np.ndarray[Any, Any]:
    """A value or a sequence as the column stores it; an assertion holds that only the end of a text is lost."""
    where = f"{table}.{column.name}"
    array: np.ndarray[Any, Any]
    if column.members:
        names = np.asarray(value, dtype=object)
        unknown = set(names.flat) - set(column.members)
        assert not unknown, f"{where} got {unknown}; members are {column.members}"
        array = np.vectorize(column.members.index, otypes=[column.dtype])(names)
    elif column.is_text:
        array = np.vectorize(cut, otypes=[column.dtype])(np.asarray(value, dtype=object), int(column.dtype[1:]))
    else:
        given = np.asarray(value)
        assert np.can_cast(given.dtype, column.dtype, "same_kind"), f"{where} is {column.dtype}, got {given.dtype}"
        array = given.astype(column.dtype)
        assert array.dtype.kind == "f" or np.array_equal(array, given), f"{where} does not fit {column.dtype}"
    assert array.ndim <= 1 + bool(column.labels), f"{where} got shape {array.shape}"
    return array.astype(column.storage, copy=False)


def cut(text: str, num_bytes: int) -> bytes:
    """The text in UTF-8, cut between characters to at most so many bytes."""
    return text.encode("utf-8", "replace")[:num_bytes].decode("utf-8", "ignore").encode("utf-8")
