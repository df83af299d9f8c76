"""Regression: a text or a pair of texts, and a number, such as the likeness of two sentences (STS-B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from raffm_mpi.data import Columns, DataInfo, Split
from raffm_mpi.data.columns import NUMBERS, is_float, label_columns
from raffm_mpi.data.labels import check_labels, numbers
from raffm_mpi.tasks import metrics as library
from raffm_mpi.tasks.base import TEXTS, Role, Task, find_label, find_pair

if TYPE_CHECKING:
    from datasets import Dataset, Features

_METRICS_OF_GLUE = {"stsb": ("pearson", "spearman")}


class Regression(Task):
    """Labels are float64 [N], the loss is the squared error."""

    name = "regression"
    roles: ClassVar[Mapping[str, Role]] = {**TEXTS, "label": Role(NUMBERS)}

    def claims(self, features: Features, named: Columns) -> bool:
        """The label, named or the only column that may be it, holds floating-point numbers."""
        labels = named.every("label") or label_columns(features, named.group)
        return len(labels) == 1 and is_float(features[labels[0]])

    def find(self, features: Features, named: Columns) -> Mapping[str, str | None]:
        label = find_label(features, named)
        return {"label": label, **find_pair(features, named, label)}

    def is_withheld(self, split: Dataset, columns: Columns, names: Sequence[str]) -> bool:
        """Some numbers are null, or all are -1."""
        values = numbers(split, columns.of("label"))
        return bool(np.isnan(values).any() or (values == -1).all())

    def labels(self, split: Dataset, columns: Columns, names: Sequence[str], where: str) -> np.ndarray:
        found = numbers(split, columns.of("label"))
        check_labels(split, columns.of("label"), np.isfinite(found), "a finite number", where)
        return found

    def config(self, info: DataInfo) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def predictions(self, info: DataInfo) -> tuple[str, ...]:
        return "squared error", "predicted value"

    def predict(self, outputs: Any, batch: Mapping[str, Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
        values = outputs.logits.squeeze(-1)
        return library.columns_of((values - batch["labels"]).square(), values)

    def metrics(self, info: DataInfo, subset: str | None = None) -> tuple[str, ...]:
        """GLUE's own (Wang et al., 2019) of its STS-B."""
        return _METRICS_OF_GLUE.get(subset or "", ("pearson", "spearman", "mse"))

    def score(
        self, info: DataInfo, metrics: Sequence[str], predictions: np.ndarray, split: Split, rows: np.ndarray
    ) -> dict[str, float]:
        found = library.checked(predictions, self.predictions(info), self.name)
        return library.scores(library.VALUES, metrics, found, split.labels[rows])
