"""The metrics that the field reports, from per-example predictions; fractions in [0, 1], never per cent.

A model's predictions are rows of float64, one an example (question answering: one a window of its context).
scikit-learn and scipy are imported where they are used: who only predicts does not wait for them.
"""

from __future__ import annotations

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_OF_ANSWERS = ("loss", "score", "start", "end", "null score")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
Metric = Callable[[np.ndarray, np.ndarray], float]  # of the rows and the labels

_METRICS = {
    "image_classification": ("accuracy", "f1_macro", "f1_weighted"),
    "text_classification": ("accuracy", "f1_macro", "matthews"),
    "regression": ("pearson", "spearman", "mse"),
    "question_answering": ("f1", "exact_match"),
    "seq2seq": ("perplexity", "token_accuracy"),
    "causal_lm": ("perplexity", "token_accuracy"),
}
_METRICS_OF_TWO_CLASSES = _METRICS | {"text_classification": ("accuracy", "f1", "matthews")}
_METRICS_OF_GLUE: dict[str, dict[str, tuple[str, ...]]] = {
    "text_classification": {
        "cola": ("matthews",),
        **dict.fromkeys(("mrpc", "qqp"), ("accuracy", "f1")),
        **dict.fromkeys(("sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli"), ("accuracy",)),
    },
    "regression": {"stsb": ("pearson", "spearman")},
}


def metrics_of(task: str, num_classes: int, subset: str | None = None) -> tuple[str, ...]:
    """The metrics that are reported for a task, the main one first; a subset of GLUE has those of Wang et al. (2019).

    ``f1`` is of class 1, as GLUE has it for two classes, and of the words of an answer in question answering. Subsets
    that GLUE does not have get the task's own metrics. Of all these perplexity and mse alone are better when lower.

    >>> metrics_of("text_classification", 2), metrics_of("text_classification", 2, "cola")
    (('accuracy', 'f1', 'matthews'), ('matthews',))
    """
    if task not in _METRICS:
        raise ValueError(f"unknown task '{task}'; known: {', '.join(_METRICS)}")
    usual = (_METRICS_OF_TWO_CLASSES if num_classes == 2 else _METRICS)[task]
    return _METRICS_OF_GLUE.get(task, {}).get(subset or "", usual)


def score(
    task: str, metrics: Sequence[str], predictions: np.ndarray, labels: np.ndarray | None = None
) -> dict[str, float]:
    """The loss and the named metrics of a set of examples.

    ``predictions`` are float64 rows, ``labels`` ``[N]``: classification ``[N, 2]``, loss and predicted class;
    regression ``[N, 2]``, squared error and predicted value; causal_lm and seq2seq ``[N, 3]``, summed negative log
    likelihood (nats), tokens and correct tokens, without labels. Question answering has ``score_answers``.

    The loss is the mean over examples, over tokens for language models. f1_macro and f1_weighted are over the classes
    that occur in labels or predictions. What is undefined is 0.0: F1 of a class that never occurs, Matthews'
    correlation where all labels or all predictions are one class, Pearson's and Spearman's where either side is
    constant, not finite or a single example. Perplexity beyond float64 is inf. ValueError for an empty set.
    """
    if task not in _SCORED:
        raise ValueError(f"no metrics of task '{task}' are scored by rows; known: {', '.join(_SCORED)}")
    kind = _SCORED[task]
    if unknown := [name for name in metrics if name not in kind.metrics]:
        raise ValueError(f"unknown metric '{unknown[0]}' of task '{task}'; known: {', '.join(kind.metrics)}")
    rows = _rows(predictions, kind.columns, f"predictions of task '{task}'")
    truth = np.asarray(labels)
    if kind.has_labels and truth.shape != (len(rows),):
        raise ValueError(f"labels of task '{task}' have shape {truth.shape}; expected ({len(rows)},)")
    return {name: kind.metrics[name](rows, truth) for name in ("loss", *metrics)}


def best_spans(
    start_logits: Tensor | np.ndarray,
    end_logits: Tensor | np.ndarray,
    spans: Tensor | np.ndarray,
    max_answer_tokens: int = 30,
    n_best: int = 20,
) -> np.ndarray:
    """The best answer span of each window, by the sum of its first token's start and its last token's end logit.

    Logits are ``[B, L]``; ``spans`` int64 ``[B, L, 2]`` holds the first character of each token and the one after its
    last, -1 for tokens outside the context. Spans are sought among the ``n_best`` starts and ends of the whole window
    (Devlin et al., 2019, and the post-processing in transformers' examples); equal sums go to the higher start logit,
    equal logits to the earlier token. Sums are float64.

    Returns float64 ``[B, 4]``: score, start and end character (0 and 0 with score -inf where no span is valid), and the
    null score: the sum at token 0, which must be the [CLS] token.
    """
    start, end, characters = _numpy(start_logits), _numpy(end_logits), _numpy(spans).astype(np.int64)
    if start.ndim != 2 or start.shape != end.shape or characters.shape != (*start.shape, 2):
        shapes = f"start logits {start.shape}, end logits {end.shape}, spans {characters.shape}"
        raise ValueError(f"{shapes}: expected [B, L], [B, L] and [B, L, 2]")
    starts = np.argsort(-start, axis=1, kind="stable")[:, :n_best, None]  # [B, n, 1], the largest first
    ends = np.argsort(-end, axis=1, kind="stable")[:, None, :n_best]  # [B, 1, n]
    window, inside = np.arange(len(start)), characters.min(-1) >= 0  # [B] and [B, L]
    every = window[:, None, None]
    valid = inside[every, starts] & inside[every, ends] & (starts <= ends) & (ends < starts + max_answer_tokens)
    scores = np.where(valid, start[every, starts] + end[every, ends], -np.inf).reshape(len(start), -1)
    best = scores.argmax(1)  # the first of equals
    first, last = starts[window, best // ends.shape[2], 0], ends[window, 0, best % ends.shape[2]]
    found = valid.reshape(scores.shape)[window, best]
    limits = np.stack([characters[window, first, 0], characters[window, last, 1]], 1) * found[:, None]
    return np.column_stack([scores[window, best], limits, start[:, 0] + end[:, 0]])


def answers_of(
    rows: np.ndarray,
    example_of_window: np.ndarray,
    contexts: Sequence[str],
    null_threshold: float = 0.0,
    *,
    may_be_unanswerable: bool,
) -> list[str]:
    """The answer of each example: the text of the best span among its windows, the earliest of equals.

    ``rows`` ``[N, 4]`` are of ``best_spans``, ``example_of_window`` int64 ``[N]`` says of which of the ``contexts``.
    Where questions may be unanswerable (Rajpurkar et al., 2018) the answer is empty when the example's lowest null
    score exceeds its best span's score by more than ``null_threshold``. ValueError for an example without a window.
    """
    rows = _rows(rows, _OF_ANSWERS[1:], "spans")
    owner = np.asarray(example_of_window)
    strays = set(owner.ravel().tolist()) ^ set(range(len(contexts)))
    if owner.shape != (len(rows),) or strays:
        given = f"{len(rows)} windows, their examples {owner.shape}, {len(contexts)} contexts"
        raise ValueError(f"{given}: a window needs an example and an example a window; not so for {sorted(strays)[:5]}")
    order = np.lexsort((-rows[:, 0], owner))  # stable
    firsts = np.flatnonzero(np.diff(owner[order], prepend=-1))
    best, null = rows[order[firsts]], np.minimum.reduceat(rows[order, 3], firsts)
    limits = best[:, 1:3].astype(np.int64)
    limits[may_be_unanswerable & (null > best[:, 0] + null_threshold)] = 0
    return [context[start:end] for context, (start, end) in zip(contexts, limits, strict=True)]


def score_answers(
    predictions: np.ndarray,
    example_of_window: np.ndarray,
    contexts: Sequence[str],
    references: Sequence[Sequence[str]],
    null_threshold: float = 0.0,
    *,
    may_be_unanswerable: bool,
) -> dict[str, float]:
    """The loss and SQuAD's F1 and exact match by the official rules (Rajpurkar et al., 2016; 2018), as fractions.

    ``predictions`` float64 ``[N, 5]``: a window's loss, then its row of ``best_spans``; ``references``: the gold
    answers of each example, none for an unanswerable question; the rest as in ``answers_of``. The loss is the mean over
    windows. Sets with both kinds of questions also have f1 and exact_match of each kind, named has_answer_f1,
    no_answer_f1 and so on. ValueError for an empty set.
    """
    rows = _rows(predictions, _OF_ANSWERS, "predictions of question answering")
    if len(references) != len(contexts):
        raise ValueError(f"references of {len(references)} examples for {len(contexts)} contexts; one each is expected")
    windows = rows[:, 1:], example_of_window, contexts, null_threshold
    answers = answers_of(*windows, may_be_unanswerable=may_be_unanswerable)
    figures = np.array([_f1_and_exact_match(*pair) for pair in zip(answers, references, strict=True)])  # [E, 2]
    answerable = np.array([len(gold) > 0 for gold in references])
    groups = {"": answerable | True}
    if answerable.any() and not answerable.all():
        groups |= {"has_answer_": answerable, "no_answer_": ~answerable}
    scores = {"loss": float(rows[:, 0].mean())}
    for prefix, members in groups.items():
        f1, exact_match = figures[members].mean(0).tolist()
        scores |= {f"{prefix}f1": f1, f"{prefix}exact_match": exact_match}
    return scores


def normalize_answer(text: str) -> str:
    """SQuAD's normal form (Rajpurkar et al., 2016): lower case, no ASCII punctuation, no articles, single spaces.

    >>> normalize_answer(" The  Eiffel-Tower, an icon!")
    'eiffeltower icon'
    """
    letters = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", letters).split())


def _f1_and_exact_match(answer: str, references: Sequence[str]) -> tuple[float, float]:
    """The best over the gold answers that have any words; without one, the empty answer is the gold one."""
    words = normalize_answer(answer).split()
    gold = [normalize_answer(reference).split() for reference in references]
    gold = [reference for reference in gold if reference] or [[]]
    return max(_token_f1(words, reference) for reference in gold), float(words in gold)


def _token_f1(words: list[str], reference: list[str]) -> float:
    """The Dice coefficient of two bags of words, which is F1; two empty ones agree."""
    if not words or not reference:
        return float(words == reference)
    return 2 * (Counter(words) & Counter(reference)).total() / (len(words) + len(reference))


def _rows(values: np.ndarray, columns: Sequence[str], what: str) -> np.ndarray:
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(columns) or not len(rows):
        raise ValueError(f"{what} have shape {rows.shape}; expected [N > 0, {len(columns)}]: {', '.join(columns)}")
    return rows


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    """Logits or characters as float64, which holds both exactly; numpy itself has no bfloat16."""
    return values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)


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


@dataclass(frozen=True)
class _Scored:
    columns: tuple[str, ...]
    metrics: Mapping[str, Metric]
    has_labels: bool = True


_f1 = partial(_of_classes, name="f1_score", zero_division=0.0)
_CLASSIFICATION = _Scored(
    ("loss", "predicted class"),
    {
        "loss": _mean_loss,
        "accuracy": partial(_of_classes, name="accuracy_score"),
        "f1": partial(_f1, labels=[1], average="macro"),
        "f1_macro": partial(_f1, average="macro"),
        "f1_weighted": partial(_f1, average="weighted"),
        "matthews": _matthews,
    },
)
_REGRESSION = _Scored(
    ("squared error", "predicted value"),
    {
        "loss": _mean_loss,
        "mse": _mean_loss,
        "pearson": partial(_correlation, name="pearsonr"),
        "spearman": partial(_correlation, name="spearmanr"),
    },
)
_LANGUAGE_MODEL = _Scored(
    ("summed negative log likelihood", "tokens", "correct tokens"),
    {"loss": _loss_per_token, "perplexity": _perplexity, "token_accuracy": _token_accuracy},
    has_labels=False,
)
_SCORED = {
    **dict.fromkeys(("image_classification", "text_classification"), _CLASSIFICATION),
    "regression": _REGRESSION,
    **dict.fromkeys(("seq2seq", "causal_lm"), _LANGUAGE_MODEL),
}
# Columns of each task's predictions.
WIDTHS = {task: len(kind.columns) for task, kind in _SCORED.items()} | {"question_answering": len(_OF_ANSWERS)}
