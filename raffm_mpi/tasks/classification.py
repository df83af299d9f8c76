"""What the tasks share whose examples are of one class each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from raffm_mpi.data import Columns, DataInfo, Split
from raffm_mpi.data.labels import check_labels, label_ids, label_names, read_column
from raffm_mpi.tasks import metrics as library
from raffm_mpi.tasks.base import BY_ANY_TASK, BY_CLASS, Task

if TYPE_CHECKING:
    from datasets import Dataset


class Classification(Task):
    """One class an example: labels are int64 [N], the loss is the cross entropy."""

    partitions = (*BY_ANY_TASK, *BY_CLASS)
    can_distil = True

    def label_names(self, train: Dataset, columns: Columns) -> tuple[str, ...]:
        """The names of class labels, else the sorted distinct values of the training split."""
        return label_names(train, columns.of("label"))

    def is_withheld(self, split: Dataset, columns: Columns, names: Sequence[str]) -> bool:
        """Some labels are null, or -1 where that is no class."""
        unknown = read_column(split, columns.of("label")).filter(label_ids(split, columns.of("label"), names) < 0)
        return not {None, -1}.isdisjoint(unknown.unique().to_pylist())

    def labels(self, split: Dataset, columns: Columns, names: Sequence[str], where: str) -> np.ndarray:
        found = label_ids(split, columns.of("label"), names)
        check_labels(split, columns.of("label"), found >= 0, f"one of the {len(names)} classes", where)
        return found

    def classes(self, labels: np.ndarray, train_labels: np.ndarray) -> np.ndarray:
        return labels

    def predictions(self, info: DataInfo) -> tuple[str, ...]:
        return "loss", "predicted class"

    def predict(self, outputs: Any, batch: Mapping[str, Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
        losses = functional.cross_entropy(outputs.logits, batch["labels"], reduction="none")
        return library.columns_of(losses, outputs.logits.argmax(-1))

    def score(
        self, info: DataInfo, metrics: Sequence[str], predictions: np.ndarray, split: Split, rows: np.ndarray
    ) -> dict[str, float]:
        found = library.checked(predictions, self.predictions(info), self.name)
        return library.scores(library.CLASSES, metrics, found, split.labels[rows])
