"""Columns of classes and numbers, read as Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from raffm_mpi.errors import UserMistake

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import Array, ChunkedArray


def read_column(split: Dataset, name: str) -> ChunkedArray:
    """One column of a split as a ``pyarrow.ChunkedArray``, as stored."""
    return split.select_columns([name]).with_format("arrow")[:].column(name)


def distinct(column: ChunkedArray) -> Array:
    """The sorted distinct values of an Arrow column, without null, as a ``pyarrow.Array``."""
    import pyarrow.compute as pc

    values = pc.unique(column).drop_null()
    return values.take(pc.array_sort_indices(values))


def label_ids(split: Dataset, column: str, names: Sequence[str]) -> np.ndarray:
    """The class of every example, int64 [N]; -1 where the label is null or not one of ``names``."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import ClassLabel

    ids = read_column(split, column)
    if not isinstance(split.features[column], ClassLabel):
        ids = pc.index_in(ids.cast(pa.string()), value_set=pa.array(names, pa.string()))
    ids = np.asarray(pc.fill_null(ids, -1), dtype=np.int64)
    return np.where((ids < 0) | (ids >= len(names)), -1, ids)


def label_names(train: Dataset, column: str) -> tuple[str, ...]:
    """The classes: the names of class labels, else the sorted distinct values of the training split."""
    import pyarrow as pa
    from datasets import ClassLabel

    feature = train.features[column]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    return tuple(distinct(read_column(train, column)).cast(pa.string()).to_pylist())


def check_labels(split: Dataset, column: str, is_known: np.ndarray, wanted: str, where: str) -> None:
    """Raise UserMistake naming the first row whose label is not known (bool [N]), its value and what is ``wanted``."""
    unknown = np.flatnonzero(~is_known)
    if unknown.size:
        value = read_column(split, column)[int(unknown[0])].as_py()
        raise UserMistake(f"{where}, row {unknown[0]}: label {value!r} is not {wanted}")


def numbers(split: Dataset, column: str) -> np.ndarray:
    """A column of numbers, float64 [N]; NaN where it is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(read_column(split, column).cast(pa.float64()), float("nan")), dtype=np.float64)
