"""What the tasks share that predict a text, one token after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from raffm_mpi.data import IGNORED, DataInfo, Split
from raffm_mpi.tasks import metrics as library
from raffm_mpi.tasks.base import Task


class LanguageModelling(Task):
    """The loss is the mean negative log likelihood of a token; the head is the pretrained model's."""

    has_new_head = False

    def config(self, info: DataInfo) -> dict[str, object]:
        return {}

    def predictions(self, info: DataInfo) -> tuple[str, ...]:
        return "summed negative log likelihood", "tokens", "correct tokens"

    def metrics(self, info: DataInfo, subset: str | None = None) -> tuple[str, ...]:
        return "perplexity", "token_accuracy"

    def score(
        self, info: DataInfo, metrics: Sequence[str], predictions: np.ndarray, split: Split, rows: np.ndarray
    ) -> dict[str, float]:
        """Over tokens, not over examples."""
        found = library.checked(predictions, self.predictions(info), self.name)
        return library.scores(library.TOKENS, metrics, found, split.labels[rows])


def predict_tokens(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Rows of predictions; ``logits`` are [B, L, tokens], ``labels`` int64 [B, L] with -100 where none is asked."""
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
    counts = labels != IGNORED
    hits = (logits.argmax(-1) == labels) & counts
    return library.columns_of(losses.sum(-1), counts.sum(-1), hits.sum(-1))
