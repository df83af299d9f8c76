"""What a model predicts on a split, a row of predictions a row, and what that is worth: over all and to each client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from raffm_mpi.data import DataInfo, Split
from raffm_mpi.learning.training import Processor
from raffm_mpi.tasks import task_of


def blank(info: DataInfo, split: Split) -> np.ndarray:
    """Predictions that are still to be made: zeros, float64 ``[len(split), K]``, K as the task has them."""
    return np.zeros((len(split), num_predictions(info)))


def num_predictions(info: DataInfo) -> int:
    """Numbers that are predicted for each row."""
    return len(task_of(info.task).predictions(info))


def evaluate(
    model: nn.Module,
    split: Split,
    info: DataInfo,
    processor: Processor,
    batch_size: int,
    batches: Iterable[int] | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """A model's predictions on the batches of a split, in file order.

    Returns float64 ``[len(split), K]`` as :meth:`Task.predict` makes them; rows outside ``batches`` are zero.
    """
    task, predictions = task_of(info.task), blank(info, split)
    model.eval()
    with torch.inference_mode():
        for number in range(-(-len(split) // batch_size)) if batches is None else batches:
            rows = np.arange(number * batch_size, min((number + 1) * batch_size, len(split)))
            batch = processor.move(split.batch(rows))
            with processor.autocast():
                outputs = model(**batch)
            predictions[rows] = task.predict(outputs, batch, split, rows)
            after_batch()
    return predictions


def score_split(info: DataInfo, metrics: Sequence[str], predictions: np.ndarray, split: Split) -> dict[str, float]:
    """The loss and the named metrics of predictions on a split; the order is that of ``metrics``."""
    return task_of(info.task).score(info, metrics, predictions, split, np.arange(len(split)))


def score_clients(
    info: DataInfo, metrics: Sequence[str], predictions: np.ndarray, split: Split, owners: np.ndarray
) -> dict[int, dict[str, float]]:
    """The same for each client's share of a split; ``owners`` (int64 [N]) says whose each row is, -1 for nobody's."""
    task, order = task_of(info.task), np.argsort(owners, kind="stable")
    clients, starts = np.unique(owners[order], return_index=True)
    shares = zip(clients.tolist(), np.split(order, starts[1:]), strict=True)
    return {client: task.score(info, metrics, predictions[rows], split, rows) for client, rows in shares if client >= 0}
