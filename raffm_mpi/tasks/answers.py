"""Answers to questions: the best spans of a context, and SQuAD's scores; fractions in [0, 1], never per cent."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from raffm_mpi.tasks.metrics import checked

OF_ANSWERS = ("loss", "score", "start", "end", "null score")  # a row of predictions: of a window
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


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
    rows = checked(rows, OF_ANSWERS[1:], "spans")
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
    rows = checked(predictions, OF_ANSWERS, "question_answering")
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


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    """Logits or characters as float64, which holds both exactly; numpy itself has no bfloat16."""
    return values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)
