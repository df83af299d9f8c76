"""What a model learns to answer: the classes, numbers or texts of a split, read as Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from raffm_mpi.config import Task
from raffm_mpi.data.columns import Columns
from raffm_mpi.errors import UserMistake

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import Array, ChunkedArray

CLASSIFICATION = ("image_classification", "text_classification")


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


def known_labels(split: Dataset, task: Task, columns: Columns, names: Sequence[str], where: str) -> np.ndarray:
    """The label of every example: classes (int64 [N]), numbers (float64 [N]), or zeros (int64 [N]) without either.

    Raises UserMistake naming the row of a label that is no class or no finite number.
    """
    if columns.label is None:
        return np.zeros(len(split), dtype=np.int64)
    if task == "regression":
        labels = numbers(split, columns.label)
        unknown, wanted = np.flatnonzero(~np.isfinite(labels)), "a finite number"
    else:
        labels = label_ids(split, columns.label, names)
        unknown, wanted = np.flatnonzero(labels < 0), f"one of the {len(names)} classes"
    if unknown.size:
        value = read_column(split, columns.label)[int(unknown[0])].as_py()
        raise UserMistake(f"{where}, row {unknown[0]}: label {value!r} is not {wanted}")
    return labels


def are_withheld(split: Dataset, task: Task, columns: Columns, names: Sequence[str]) -> bool:
    """Whether a split hides what is to be predicted, as benchmarks publish their test splits.

    Classes: some are null, or -1 where that is no class. Numbers: some are null, or all are -1. Targets: some are
    null, or all are empty. Answers: there are none at all.
    """
    if task in CLASSIFICATION and columns.label is not None:
        unknown = read_column(split, columns.label).filter(label_ids(split, columns.label, names) < 0)
        return not {None, -1}.isdisjoint(unknown.unique().to_pylist())
    if columns.label is not None:
        values = numbers(split, columns.label)
        return bool(np.isnan(values).any() or (values == -1).all())
    if columns.target is not None:
        targets = read_column(split, columns.target).unique().to_pylist()
        return None in targets or targets == [""]
    return columns.answers is not None and not _num_answers(split, columns.answers).any()


def numbers(split: Dataset, column: str) -> np.ndarray:
    """A column of numbers, float64 [N]; NaN where it is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(read_column(split, column).cast(pa.float64()), float("nan")), dtype=np.float64)


def _num_answers(split: Dataset, column: str) -> np.ndarray:
    """The number of answers of every question, int64 [N]."""
    import pyarrow.compute as pc

    texts = pc.struct_field(read_column(split, column), "text")
    return np.asarray(pc.fill_null(pc.list_value_length(texts), 0), dtype=np.int64)
