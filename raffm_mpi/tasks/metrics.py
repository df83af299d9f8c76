"""The metrics that the field reports, from a row of predictions an example; fractions in [0, 1], never per cent.

A metric takes the rows (float64 ``[N, K]``) and the labels (``[N]``). What is undefined has a value: 0.0 for F1 of a
class that never occurs, for Matthews' correlation where all labels or all predictions are one class, and for Pearson's
and Spearman's where either side is constant, not finite or a single example; inf for a perplexity beyond float64.
scikit-learn and scipy are imported where they are used: who only predicts does not wait for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

Metric = Callable[[np.ndarray, np.ndarray], float]


def columns_of(*values: Tensor) -> np.ndarray:
    """Tensors ``[B]`` on any device as the columns of rows of predictions, float64 ``[B, number of tensors]``."""
    return np.column_stack([value.double().cpu().numpy() for value in values])


def checked(predictions: np.ndarray, columns: Sequence[str], task: str) -> np.ndarray:
    """Rows of predictions as float64; ValueError for an empty set and for another number of columns."""
    rows = np.asarray(predictions, np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(columns) or not len(rows):
        raise ValueError(
            f"predictions of {task} have shape {rows.shape}; expected [N > 0, {len(columns)}]: {', '.join(columns)}"
        )
    return rows


def scores(
    known: Mapping[str, Metric], metrics: Sequence[str], rows: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """The loss and the named metrics of those that are known; ValueError for another name."""
    if unknown := [name for name in metrics if name not in known]:
        raise ValueError(f"unknown metric '{unknown[0]}'; known: {', '.join(known)}")
    return {name: known[name](rows, labels) for name in ("loss", *metrics)}


def _mean_loss(rows: np.ndarray, _: np.ndarray) -> float:
    return float(rows[:, 0].mean())


def _of_classes(rows: np.ndarray, labels: np.ndarray, /, *, name: str, **options: Any) -> float:
    from sklearn import metrics

    return float(getattr(metrics, name)(labels.astype(np.int64), rows[:, 1].astype(np.int64), **options))


def _matthews(rows: np.ndarray, labels: np.ndarray) -> float:
    if (rows[:, 1] == rows[0, 1]).all() or (labels == labels[0]).all():
        return 0.0
    return _of_classes(rows, labels, name="matthews_corrcoef")


def _correlation(rows: np.ndarray, labels: np.ndarray, *, name: str) -> float:
    from scipy import stats

    if len(rows) < 2:
        return 0.0
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        value = float(getattr(stats, name)(rows[:, 1], labels.astype(np.float64)).statistic)
    return value if np.isfinite(value) else 0.0


def _loss_per_token(rows: np.ndarray, _: np.ndarray) -> float:
    return float(rows[:, 0].sum() / _tokens(rows))


def _perplexity(rows: np.ndarray, labels: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(_loss_per_token(rows, labels)))


def _token_accuracy(rows: np.ndarray, _: np.ndarray) -> float:
    return float(rows[:, 2].sum() / _tokens(rows))


def _tokens(rows: np.ndarray) -> float:
    if (tokens := float(rows[:, 1].sum())) > 0:
        return tokens
    raise ValueError(f"{len(rows)} examples have no token to score")


_f1 = partial(_of_classes, name="f1_score", zero_division=0.0)

# Of a loss and a predicted class; f1 is of class 1, f1_macro and f1_weighted are over the classes that occur.
CLASSES: Mapping[str, Metric] = {
    "loss": _mean_loss,
    "accuracy": partial(_of_classes, name="accuracy_score"),
    "f1": partial(_f1, labels=[1], average="macro"),
    "f1_macro": partial(_f1, average="macro"),
    "f1_weighted": partial(_f1, average="weighted"),
    "matthews": _matthews,
}
# Of a squared error and a predicted value.
VALUES: Mapping[str, Metric] = {
    "loss": _mean_loss,
    "mse": _mean_loss,
    "pearson": partial(_correlation, name="pearsonr"),
    "spearman": partial(_correlation, name="spearmanr"),
}
# Of a summed negative log likelihood (nats), tokens and correct tokens.
TOKENS: Mapping[str, Metric] = {"loss": _loss_per_token, "perplexity": _perplexity, "token_accuracy": _token_accuracy}
