"""What a model predicts on a split, one row an example, and what that is worth: over all and to each client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raffm_mpi.config import Task
from raffm_mpi.data import IGNORED, Split
from raffm_mpi.learning.training import Processor
from raffm_mpi.tasks.metrics import WIDTHS, best_spans, score, score_answers


def evaluate(
    model: nn.Module,
    split: Split,
    task: Task,
    processor: Processor,
    batch_size: int,
    batches: Iterable[int] | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """A model's predictions on the batches of a split, in file order.

    Returns float64 ``[len(split), K]`` as :mod:`raffm_mpi.tasks.metrics` takes them; rows outside ``batches`` are zero.
    """
    predictions = np.zeros((len(split), WIDTHS[task]))
    model.eval()
    with torch.inference_mode():
        for number in range(-(-len(split) // batch_size)) if batches is None else batches:
            rows = np.arange(number * batch_size, min((number + 1) * batch_size, len(split)))
            batch = processor.move(split.batch(rows))
            with processor.autocast():
                outputs = model(**batch)
            predictions[rows] = _PREDICT[task](outputs, batch, split, rows)
            after_batch()
    return predictions


def score_split(task: Task, metrics: Sequence[str], predictions: np.ndarray, split: Split) -> dict[str, float]:
    """The loss and the named metrics of predictions on a split; the order is that of ``metrics``."""
    return _score(task, metrics, predictions, split, np.arange(len(split)))


def score_clients(
    task: Task, metrics: Sequence[str], predictions: np.ndarray, split: Split, owners: np.ndarray
) -> dict[int, dict[str, float]]:
    """The same for each client's share of a split; ``owners`` (int64 [N]) says whose each row is, -1 for nobody's."""
    order = np.argsort(owners, kind="stable")
    clients, starts = np.unique(owners[order], return_index=True)
    shares = zip(clients.tolist(), np.split(order, starts[1:]), strict=True)
    return {client: _score(task, metrics, predictions, split, rows) for client, rows in shares if client >= 0}


def _score(
    task: Task, metrics: Sequence[str], predictions: np.ndarray, split: Split, rows: np.ndarray
) -> dict[str, float]:
    references = split.references
    if references is None:
        return score(task, metrics, predictions[rows], split.labels[rows])
    examples, example_of_window = np.unique(references.example[rows], return_inverse=True)
    scores = score_answers(
        predictions[rows],
        example_of_window,
        [references.contexts[example] for example in examples],
        [references.answers[example] for example in examples],
        may_be_unanswerable=not all(references.answers),
    )
    return {name: scores[name] for name in ("loss", *metrics)} | scores


def _predict_class(outputs: Any, batch: dict[str, Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
    """Loss and predicted class."""
    losses = functional.cross_entropy(outputs.logits, batch["labels"], reduction="none")
    return _columns(losses, outputs.logits.argmax(-1))


def _predict_number(outputs: Any, batch: dict[str, Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
    """Squared error and predicted number."""
    values = outputs.logits.squeeze(-1)
    return _columns((values - batch["labels"]).square(), values)


def _predict_next_tokens(outputs: Any, batch: dict[str, Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
    return _predict_tokens(outputs.logits[:, :-1], batch["labels"][:, 1:])


def _predict_target(outputs: Any, batch: dict[str, Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
    return _predict_tokens(outputs.logits, batch["labels"])


def _predict_tokens(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Summed negative log likelihood, tokens and right tokens."""
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
    counts = labels != IGNORED
    hits = (logits.argmax(-1) == labels) & counts
    return _columns(losses.sum(-1), counts.sum(-1), hits.sum(-1))


def _predict_answer(outputs: Any, batch: dict[str, Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
    """Loss, score of the best span, its characters, and the score of no answer."""
    start = functional.cross_entropy(outputs.start_logits, batch["start_positions"], reduction="none")
    end = functional.cross_entropy(outputs.end_logits, batch["end_positions"], reduction="none")
    spans = best_spans(outputs.start_logits, outputs.end_logits, split.spans(rows))
    return np.column_stack([_columns((start + end) / 2), spans])


def _columns(*values: Tensor) -> np.ndarray:
    return np.column_stack([value.double().cpu().numpy() for value in values])


_PREDICT: dict[Task, Callable[[Any, dict[str, Tensor], Split, np.ndarray], np.ndarray]] = {
    "image_classification": _predict_class,
    "text_classification": _predict_class,
    "regression": _predict_number,
    "question_answering": _predict_answer,
    "seq2seq": _predict_target,
    "causal_lm": _predict_next_tokens,
}
