"""Answers are found and scored by the official rules, and every edge case has a defined result without a warning."""

from __future__ import annotations

import math
import re
import string
from collections import Counter

import numpy as np
import pytest
import torch

from raffm_mpi.tasks.answers import answers_of, best_spans, normalize_answer, score_answers

pytestmark = pytest.mark.filterwarnings("error")


def official(prediction, references):
    """F1 and exact match by the rules of SQuAD 2.0's evaluation: each is the best over the gold answers."""

    def tokens(text):
        kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    def f1(gold, given):
        if not gold or not given:
            return float(gold == given)
        common = sum((Counter(gold) & Counter(given)).values())
        if common == 0:
            return 0.0
        precision, recall = common / len(given), common / len(gold)
        return 2 * precision * recall / (precision + recall)

    gold = [reference for reference in references if tokens(reference)] or [""]
    return (
        max(f1(tokens(reference), tokens(prediction)) for reference in gold),
        max(float(tokens(reference) == tokens(prediction)) for reference in gold),
    )


def scores_of_answer(answer, references):
    scores = score_answers(
        np.array([[0.5, 1, 0, len(answer), 0]]), np.zeros(1, int), [answer], [references], may_be_unanswerable=False
    )
    return scores["f1"], scores["exact_match"]


@pytest.mark.parametrize(
    ("answer", "references", "f1", "exact_match"),
    [
        ("The  Eiffel-Tower!", ["an eiffeltower"], 1, 1),
        ("the tower of Paris", ["Tower", "in Paris, the tower"], 2 * 2 / (3 + 3), 0),
        ("big big dog", ["big big big cat"], 2 * 2 / 7, 0),  # a word counts as often as both have it
        ("one—the—two", ["one— —two"], 1, 1),  # an article leaves a space
        ("one two", ["three", "two one"], 1, 0),
        ("theatre", ["atre"], 0, 0),
        ("", [], 1, 1),
        ("", ["gold"], 0, 0),
        ("gold", [], 0, 0),
        ("The!", [], 1, 1),  # nothing is left of it
        ("the", ["a", "gold"], 0, 0),  # as nothing is left of that gold answer
    ],
)
def test_answers_are_scored_by_the_official_rules(answer, references, f1, exact_match):
    assert scores_of_answer(answer, references) == pytest.approx((f1, exact_match))
    assert official(answer, references) == pytest.approx((f1, exact_match))


def test_random_answers_score_as_the_official_rules_say():
    random = np.random.default_rng(0)
    words = ["the", "A", "an", "Cat", "cat,", "dog", "—", "!", "it's", "its", "  ", "thé", "\u00a0", "10", "1,0"]

    def text():
        return " ".join(random.choice(words, random.integers(0, 9)))

    for _ in range(500):
        answer, references = text(), [text() for _ in range(random.integers(0, 4))]
        assert scores_of_answer(answer, references) == pytest.approx(official(answer, references)), (answer, references)


def test_the_normal_form_is_squads():
    assert normalize_answer("\tA (big)  THEATRE — an Ode to the\nsea. ") == "big theatre — ode to sea"


def plain_best_span(start, end, spans, max_answer_tokens, n_best):
    """The first of the best among the spans that the usual post-processing lists."""
    best = (-math.inf, 0, 0)
    for first in np.argsort(start)[: -n_best - 1 : -1]:
        for last in np.argsort(end)[: -n_best - 1 : -1]:
            if spans[first, 0] < 0 or spans[last, 0] < 0 or last < first or last - first + 1 > max_answer_tokens:
                continue
            if start[first] + end[last] > best[0]:
                best = (start[first] + end[last], spans[first, 0], spans[last, 1])
    return (*best, start[0] + end[0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("max_answer_tokens", "n_best", "length"), [(30, 20, 64), (4, 5, 40), (1, 20, 12), (3, 2, 30), (30, 500, 50)]
)
def test_best_spans_are_those_of_a_double_loop(seed, max_answer_tokens, n_best, length):
    random = np.random.default_rng(seed)
    start, end = random.normal(size=(2, 16, length))
    spans = np.full((16, length, 2), -1)
    for window in range(16):  # the context is somewhere in the window, in one it is nowhere
        tokens = np.arange(random.integers(1, length // 2), random.integers(length // 2, length)) if window else []
        spans[window, tokens, 0] = 5 * np.arange(len(tokens))
        spans[window, tokens, 1] = spans[window, tokens, 0] + random.integers(1, 5, len(tokens))
    result = best_spans(start, end, spans, max_answer_tokens, n_best)
    expected = [plain_best_span(*window, max_answer_tokens, n_best) for window in zip(start, end, spans, strict=True)]
    assert result.dtype == np.float64
    assert np.array_equal(result, np.array(expected))


def test_best_spans_of_tensors_are_those_of_arrays():
    torch.manual_seed(0)
    start, end = torch.randn(2, 4, 10, dtype=torch.bfloat16, requires_grad=True)
    spans = torch.arange(20).reshape(1, 10, 2).expand(4, 10, 2)
    arrays = [tensor.detach().float().numpy() for tensor in (start, end)]
    assert np.array_equal(best_spans(start, end, spans), best_spans(*arrays, spans.numpy()))


def test_equal_logits_go_to_the_earlier_token_and_equal_sums_to_the_higher_start():
    spans = np.arange(10).reshape(1, 5, 2)
    assert best_spans(np.zeros((1, 5)), np.zeros((1, 5)), spans).tolist() == [[0, 0, 1, 0]]
    start, end = np.array([[0.0, 1, 2, 0, 0]]), np.array([[0.0, 0, 1, 0, 0]])  # 2 + 1 at token 2
    assert best_spans(start, end, spans).tolist() == [[3, 4, 5, 0]]
    end[0, 1:3] = 4, 3  # token 1 alone: 1 + 4; token 2 alone: 2 + 3
    assert best_spans(start, end, spans).tolist() == [[5, 4, 5, 0]]


def test_logits_and_spans_of_other_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"start logits \(2, 5\), end logits \(2, 5\), spans \(2, 4, 2\): expected \[B"
    ):
        best_spans(np.zeros((2, 5)), np.zeros((2, 5)), np.zeros((2, 4, 2)))


CONTEXTS = ["alpha beta", "gamma delta"]
WINDOWS = np.array(  # score, start, end, null score; of the examples 1, 0, 1, 0
    [[2.0, 0, 5, 3.5], [1.0, 0, 5, 1.0], [3.0, 6, 11, 9.0], [1.0, 6, 10, 2.0]]
)
OWNERS = np.array([1, 0, 1, 0])


def test_an_answer_is_the_best_over_an_examples_windows_the_earliest_of_equals():
    assert answers_of(WINDOWS, OWNERS, CONTEXTS, may_be_unanswerable=False) == ["alpha", "delta"]
    assert answers_of(WINDOWS[::-1], OWNERS[::-1], CONTEXTS, may_be_unanswerable=False) == ["beta", "delta"]


def test_a_question_is_unanswerable_when_its_lowest_null_score_leads_by_more_than_the_threshold():
    # lowest null score less best score: 1 − 1 and 3.5 − 3
    for threshold, expected in [
        (-0.1, ["", ""]),
        (0.0, ["alpha", ""]),
        (0.4, ["alpha", ""]),
        (0.5, ["alpha", "delta"]),
    ]:
        answers = answers_of(WINDOWS, OWNERS, CONTEXTS, threshold, may_be_unanswerable=True)
        assert answers == expected, threshold


@pytest.mark.parametrize("may_be_unanswerable", [True, False])
def test_an_example_without_a_valid_span_has_the_empty_answer(may_be_unanswerable):
    rows = best_spans(np.ones((1, 3)), np.ones((1, 3)), np.full((1, 3, 2), -1))
    assert rows.tolist() == [[-math.inf, 0, 0, 2]]
    assert answers_of(rows, np.zeros(1, int), ["text"], may_be_unanswerable=may_be_unanswerable) == [""]


def test_scores_are_over_examples_and_of_each_kind_of_question():
    predictions = np.column_stack([[1, 2, 3, 6], WINDOWS])
    scores = score_answers(predictions, OWNERS, CONTEXTS, [["alpha one"], []], 0.0, may_be_unanswerable=True)
    assert scores == pytest.approx(
        {
            "loss": 3.0,
            "f1": (2 / 3 + 1) / 2,
            "exact_match": 1 / 2,
            "has_answer_f1": 2 / 3,
            "has_answer_exact_match": 0,
            "no_answer_f1": 1,
            "no_answer_exact_match": 1,
        }
    )
    answerable = score_answers(predictions, OWNERS, CONTEXTS, [["alpha"], ["x"]], 1.0, may_be_unanswerable=True)
    assert answerable == {"loss": 3.0, "f1": 0.5, "exact_match": 0.5}


def test_windows_and_examples_that_do_not_match_are_refused():
    for rows, owners, contexts, message in [
        (WINDOWS, OWNERS, [*CONTEXTS, "x"], r"example a window; not so for \[2\]"),
        (WINDOWS, OWNERS, CONTEXTS[:1], r"a window needs an example .* not so for \[1\]"),
        (WINDOWS, OWNERS[:3], CONTEXTS, r"4 windows, their examples \(3,\)"),
        (WINDOWS[:0], OWNERS[:0], [], r"predictions of spans have shape \(0, 4\); expected \[N > 0, 4\]: score"),
    ]:
        with pytest.raises(ValueError, match=message):
            answers_of(rows, owners, contexts, may_be_unanswerable=True)
    with pytest.raises(ValueError, match="references of 1 examples for 2 contexts"):
        score_answers(np.zeros((4, 5)), OWNERS, CONTEXTS, [["x"]], may_be_unanswerable=False)
    with pytest.raises(ValueError, match=r"of question_answering have shape \(0, 5\); expected \[N > 0, 5\]"):
        score_answers(np.zeros((0, 5)), OWNERS[:0], [], [], may_be_unanswerable=False)
