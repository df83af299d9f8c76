"""Multi-label classification: an image or a text, and any number of labels; the worked example of docs/tasks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional

from raffm_mpi.data import Columns, DataInfo, Split
from raffm_mpi.data.columns import (
    IMAGES,
    ColumnType,
    image_columns,
    is_class_label,
    is_discrete,
    is_float,
    label_columns,
    only,
)
from raffm_mpi.data.labels import check_labels, distinct, numbers, read_column
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks.base import BY_ANY_TASK, TEXTS, Role, Task, find_image, find_pair
from raffm_mpi.tasks.metrics import checked, columns_of

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from pyarrow import Array

_NAME_BYTES = 32  # of a metric in the log


def _is_list(feature: Any) -> bool:
    return is_discrete(getattr(feature, "feature", None))


LISTS = ColumnType("lists of class labels, whole numbers or strings, or a list of columns of 0 and 1", _is_list)
MARKS = ColumnType("0 and 1 or true/false", lambda feature: is_float(feature) or is_discrete(feature))


class MultiLabelClassification(Task):
    """Labels are 0 and 1, uint8 [N, K]; the loss is the mean over labels of the binary cross entropy of the logits."""

    name = "multi_label_classification"
    roles: ClassVar[Mapping[str, Role]] = {"image": Role(IMAGES), **TEXTS, "label": Role(LISTS, each=MARKS)}
    partitions = (*BY_ANY_TASK, "dirichlet", "shards")

    def claims(self, features: Features, named: Columns) -> bool:
        """The label, named or the only column that may be it, holds lists; or several columns are named as it."""
        labels = named.every("label") or label_columns(features, named.group)
        is_own = len(labels) == 1 and _is_list(features[labels[0]])
        return named.roles.keys() <= self.roles.keys() and (is_own or isinstance(named.roles.get("label"), tuple))

    def find(self, features: Features, named: Columns) -> Mapping[str, str | tuple[str, ...] | None]:
        label = named.roles.get("label") or only("label", label_columns(features, named.group), features)
        others = (label,) if isinstance(label, str) else label
        by_text = {"text", "text_pair"} & named.roles.keys()
        if "image" in named.roles or (image_columns(features) and not by_text):
            if by_text:
                raise UserMistake(f"data.columns: image and {min(by_text)} are named; {self.name} reads one of them")
            return {"label": label, "image": find_image(features, named)}
        return {"label": label, **find_pair(features, named, *others)}

    def label_names(self, train: Dataset, columns: Columns) -> tuple[str, ...]:
        """The columns of 0 and 1; of lists, the names of class labels, else the sorted distinct values in training."""
        import pyarrow as pa

        column = columns.one("label")
        if column is None:
            return columns.every("label")
        feature: Any = train.features[column]
        if is_class_label(feature.feature):
            return tuple(feature.feature.names)
        names = tuple(distinct(_flat(train, column)[0]).cast(pa.string()).to_pylist())
        if not names:
            raise UserMistake(f"data.columns.label: column '{column}' has no label in any training example")
        return names

    def is_withheld(self, split: Dataset, columns: Columns, names: Sequence[str]) -> bool:
        """Some are null or -1, which is no label; or all lists are empty."""
        column = columns.one("label")
        if column is None:
            values = np.stack([numbers(split, name) for name in columns.every("label")])
            return bool(np.isnan(values).any() or (values == -1).any())
        labels, _ = _flat(split, column)
        unknown = set(labels.filter(_ids(split, column, labels, names) < 0).unique().to_pylist())
        return read_column(split, column).null_count > 0 or not len(labels) or not unknown.isdisjoint({None, -1})

    def labels(self, split: Dataset, columns: Columns, names: Sequence[str], where: str) -> np.ndarray:
        column = columns.one("label")
        if column is None:
            marks = [numbers(split, name) for name in columns.every("label")]
            for name, values in zip(columns.every("label"), marks, strict=True):
                check_labels(split, name, np.isin(values, (0, 1)), f"0 or 1 (column '{name}')", where)
            return np.stack(marks, axis=1).astype(np.uint8)
        values, owners = _flat(split, column)
        ids = _ids(split, column, values, names)
        is_known = ~np.asarray(read_column(split, column).is_null(), dtype=bool)
        is_known[owners[ids < 0]] = False
        check_labels(split, column, is_known, f"a list of any of the {len(names)} classes", where)
        found = np.zeros((len(split), len(names)), dtype=np.uint8)
        found[owners, ids] = 1
        return found

    def classes(self, labels: np.ndarray, train_labels: np.ndarray) -> np.ndarray:
        """Of an example's labels the one that is rarest in training, the first of equals; K for none."""
        order = np.argsort(train_labels.sum(axis=0, dtype=np.int64), kind="stable")
        by_rarity = labels[:, order]
        return np.where(by_rarity.any(axis=1), order[by_rarity.argmax(axis=1)], len(order))

    def config(self, info: DataInfo) -> dict[str, Any]:
        return {**super().config(info), "problem_type": "multi_label_classification"}

    def predictions(self, info: DataInfo) -> tuple[str, ...]:
        return "loss", *(f"logit of {name}" for name in info.label_names)

    def predict(self, outputs: Any, batch: Mapping[str, Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
        logits = outputs.logits.float()
        losses = functional.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="none").mean(dim=1)
        return columns_of(losses, *logits.unbind(dim=1))

    def metrics(self, info: DataInfo, subset: str | None = None) -> tuple[str, ...]:
        """A label is predicted where its logit is above 0; ``average_precision`` is the mean over labels."""
        return "f1_micro", "f1_macro", "average_precision"

    def score(
        self, info: DataInfo, metrics: Sequence[str], predictions: np.ndarray, split: Split, rows: np.ndarray
    ) -> dict[str, float]:
        """With ``average_precision`` also ``ap/LABEL`` of each label, or ``ap/NUMBER`` where a name is too long.

        A label that no example has is left out of the average precisions; one that is not predicted either, of
        f1_macro. A mean over no labels, and F1 where no label occurs or is predicted, is 0.0.
        """
        found = checked(predictions, self.predictions(info), self.name)
        logits, truth = found[:, 1:], split.labels[rows].astype(bool)
        hits, sizes = ((logits > 0) & truth).sum(0), (logits > 0).sum(0) + truth.sum(0)
        scores = {
            "f1_micro": float(2 * hits.sum() / max(1, sizes.sum())),
            "f1_macro": _mean(2 * hits[sizes > 0] / sizes[sizes > 0]),
        }
        if "average_precision" in metrics:
            of_labels = _average_precisions(info.label_names, logits, truth)
            scores |= {"average_precision": _mean(np.array(list(of_labels.values()))), **of_labels}
        asked = {name: scores[name] for name in metrics}
        return {"loss": float(found[:, 0].mean()), **asked, **{n: v for n, v in scores.items() if n.startswith("ap/")}}


def _flat(split: Dataset, column: str) -> tuple[Array, np.ndarray]:
    """All values of a column of lists, one after another, and the row that each is of (int64)."""
    import pyarrow.compute as pc

    lists = read_column(split, column).combine_chunks()
    return pc.list_flatten(lists), np.asarray(pc.list_parent_indices(lists), dtype=np.int64)


def _ids(split: Dataset, column: str, values: Array, names: Sequence[str]) -> np.ndarray:
    """The number of each label, int64; -1 for null and for what is no label."""
    import pyarrow as pa
    import pyarrow.compute as pc

    feature: Any = split.features[column]
    if not is_class_label(feature.feature):
        values = pc.index_in(values.cast(pa.string()), value_set=pa.array(names, pa.string()))
    ids = np.asarray(pc.fill_null(values, -1), dtype=np.int64)
    return np.where((ids < 0) | (ids >= len(names)), -1, ids)


def _average_precisions(names: Sequence[str], logits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The average precision of each label that an example has, as ``ap/LABEL``; logits that are no number come last."""
    from sklearn.metrics import average_precision_score

    fit = all(len(f"ap/{name}".encode()) <= _NAME_BYTES for name in names)
    ranked = np.nan_to_num(logits, nan=np.finfo(np.float64).min)
    return {
        f"ap/{names[label] if fit else label}": float(average_precision_score(truth[:, label], ranked[:, label]))
        for label in np.flatnonzero(truth.any(axis=0)).tolist()
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
