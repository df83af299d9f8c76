"""Every metric is the field's own, and every edge case has a defined result without a warning."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from raffm_mpi.data import Columns, DataInfo
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks import task_of

pytestmark = pytest.mark.filterwarnings("error")
CLASSIFICATION = ("accuracy", "f1", "f1_macro", "f1_weighted", "matthews")
CORRELATIONS = ("pearson", "spearman")
BY_ROWS = ("image_classification", "text_classification", "regression", "seq2seq", "causal_lm")


def info(task, num_classes=0):
    return DataInfo(task, Columns(), tuple("abcdefghij"[:num_classes]), ())


def metrics_of(task, num_classes, subset=None):
    return task_of(task).metrics(info(task, num_classes), subset)


def score(task, metrics, predictions, labels=None):
    labels = np.zeros(len(predictions), np.int64) if labels is None else labels
    split = SimpleNamespace(labels=labels)
    return task_of(task).score(info(task), metrics, predictions, split, np.arange(len(predictions)))


def scores_of_classes(predicted, labels, metrics=CLASSIFICATION):
    rows = np.column_stack([np.arange(len(predicted)), predicted])
    return score("text_classification", metrics, rows, np.array(labels))


def scores_of_values(predicted, labels, metrics=CORRELATIONS):
    predicted, labels = np.array(predicted, float), np.array(labels, float)
    return score("regression", metrics, np.column_stack([(predicted - labels) ** 2, predicted]), labels)


# Which metrics


def test_a_subset_of_glue_has_the_metrics_of_its_leaderboard():
    for subsets, metrics in [
        ("cola", ("matthews",)),
        ("mrpc qqp", ("accuracy", "f1")),
        ("sst2 qnli rte wnli mnli mnli_matched mnli_mismatched", ("accuracy",)),
    ]:
        for subset in subsets.split():
            assert metrics_of("text_classification", 3 if "mnli" in subset else 2, subset) == metrics, subset
    assert metrics_of("regression", 1, "stsb") == ("pearson", "spearman")


def test_other_subsets_have_their_tasks_metrics():
    assert metrics_of("regression", 1) == metrics_of("regression", 1, "other") == ("pearson", "spearman", "mse")
    assert metrics_of("text_classification", 2, "other") == ("accuracy", "f1", "matthews")
    assert metrics_of("text_classification", 3) == ("accuracy", "f1_macro", "matthews")
    assert metrics_of("image_classification", 2, "cola") == ("accuracy", "f1_macro", "f1_weighted")
    assert metrics_of("question_answering", 0) == ("f1", "exact_match")
    assert metrics_of("causal_lm", 0) == metrics_of("seq2seq", 0) == ("perplexity", "token_accuracy")
    with pytest.raises(UserMistake, match=r"^data.task: unknown task 'ner'; known: question_answering, "):
        task_of("ner")


def test_every_metric_of_rows_can_be_scored():
    for task in BY_ROWS:
        rows = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 0.0]])[:, : 2 + task.endswith(("seq", "lm"))]
        for classes in (2, 3):
            names = metrics_of(task, classes)
            assert list(score(task, names, rows, np.array([1, 2]))) == ["loss", *names]


# Classification


def test_metrics_of_two_classes_are_those_of_the_confusion_matrix():
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
    predicted, labels = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    f1_of_1, f1_of_0 = 2 * 3 / (2 * 3 + 1 + 2), 2 * 4 / (2 * 4 + 2 + 1)
    assert scores_of_classes(predicted, labels) == pytest.approx(
        {
            "loss": 4.5,
            "accuracy": 7 / 10,
            "f1": f1_of_1,
            "f1_macro": (f1_of_1 + f1_of_0) / 2,
            "f1_weighted": (5 * f1_of_1 + 5 * f1_of_0) / 10,
            "matthews": (3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6),
        }
    )


def test_f1_of_many_classes_averages_over_classes_or_over_their_examples():
    # class 0: 2 hits, 3 predicted, 2 true; 1: 0 hits; 2: 1 hit, 2 predicted, 1 true; 4 is predicted and never true
    predicted, labels = [0, 0, 0, 2, 2, 4], [0, 0, 1, 1, 2, 1]
    of_class = {0: 2 * 2 / 5, 1: 0.0, 2: 2 * 1 / 3, 4: 0.0}
    scores = scores_of_classes(predicted, labels, ("f1_macro", "f1_weighted"))
    assert scores["f1_macro"] == pytest.approx(sum(of_class.values()) / 4)
    assert scores["f1_weighted"] == pytest.approx((2 * of_class[0] + 3 * of_class[1] + 1 * of_class[2]) / 6)


@pytest.mark.parametrize(
    ("predicted", "labels", "accuracy", "f1", "f1_macro"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0, 0.0, 1.0),  # class 1 never occurs
        ([1, 1, 1, 1], [1, 1, 1, 1], 1.0, 1.0, 1.0),
        ([0, 1, 0, 1], [0, 0, 0, 0], 0.5, 0.0, 1 / 3),  # F1 of class 0 is 2·2/(4 + 2)
        ([1, 1, 1, 1], [0, 0, 1, 1], 0.5, 2 / 3, 1 / 3),
        ([0], [0], 1.0, 0.0, 1.0),
    ],
)
def test_one_class_sets_have_defined_scores(predicted, labels, accuracy, f1, f1_macro):
    scores = scores_of_classes(predicted, labels)
    assert scores["matthews"] == 0.0
    assert [scores[name] for name in ("accuracy", "f1", "f1_macro")] == pytest.approx([accuracy, f1, f1_macro])


def test_more_classes_than_most_have_examples_for_are_no_regression():
    assert scores_of_classes(np.arange(100), np.arange(100))["f1_macro"] == 1.0


# Regression


def test_correlations_are_the_textbooks_ties_ranked_by_their_mean():
    # deviations (−1.5, −0.5, −0.5, 2.5) and (−2, −1, 1, 2); ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4)
    scores = scores_of_values([1, 2, 2, 5], [1, 2, 4, 5])
    assert scores["pearson"] == pytest.approx((3 + 0.5 - 0.5 + 5) / math.sqrt((2.25 + 0.25 + 0.25 + 6.25) * 10))
    assert scores["spearman"] == pytest.approx((2.25 + 0 + 0 + 2.25) / math.sqrt((2.25 + 2.25) * (2.25 + 0.25) * 2))


def test_a_monotone_curve_has_spearman_one_and_pearson_below():
    scores = scores_of_values([1, 8, 27, 64], [1, 2, 3, 4], ("mse", *CORRELATIONS))
    assert scores["spearman"] == pytest.approx(1)
    assert scores["pearson"] < 0.99
    assert scores["mse"] == scores["loss"] == pytest.approx((0 + 6**2 + 24**2 + 60**2) / 4)


@pytest.mark.parametrize(
    ("predicted", "labels"),
    [
        ([0.1, 0.1, 0.1], [1, 2, 3]),
        ([1, 2, 3], [0.1, 0.1, 0.1]),
        ([2, 2], [2, 2]),
        ([1], [1]),
        ([1, math.nan, 2], [1, 2, 3]),
    ],
)
def test_undefined_correlations_are_zero(predicted, labels):
    scores = scores_of_values(predicted, labels)
    assert scores["pearson"] == scores["spearman"] == 0.0


def test_degenerate_predictions_never_warn_or_give_nan():
    for predicted in ([1, 2, math.inf], [1e9, 1e9, 1e9 + 2e-7], [1e-300, 0, 2e-300]):
        scores = scores_of_values(predicted, [1, 2, 3])
        assert all(-1 <= scores[name] <= 1 for name in CORRELATIONS), predicted


# Language models


@pytest.mark.parametrize("task", ["causal_lm", "seq2seq"])
def test_language_models_are_scored_over_tokens_not_over_examples(task):
    # 8 tokens of probability 1/2, then 2 tokens of probability 1/8; an example without tokens counts for nothing
    rows = np.array([[8 * math.log(2), 8, 6], [2 * math.log(8), 2, 1], [0, 0, 0]])
    scores = score(task, ("perplexity", "token_accuracy"), rows)
    assert scores == pytest.approx(
        {"loss": 14 / 10 * math.log(2), "perplexity": 2**1.4, "token_accuracy": 7 / 10}, rel=1e-12
    )


def test_a_perplexity_beyond_float64_is_infinite():
    assert score("causal_lm", ("perplexity",), np.array([[2000.0, 2, 0]])) == {"loss": 1000.0, "perplexity": math.inf}


# Mistakes


@pytest.mark.parametrize("task", BY_ROWS)
def test_an_empty_set_is_refused(task):
    with pytest.raises(ValueError, match=rf"predictions of {task} have shape \(0, .\); expected \[N > 0, "):
        score(task, (), np.zeros((0, 2 + task.endswith(("seq", "lm")))), np.zeros(0))


def test_mistakes_are_named():
    rows = np.zeros((3, 2))
    for arguments, message in [
        (("causal_lm", (), np.zeros((2, 3))), "2 examples have no token to score"),
        (("causal_lm", (), rows), r"shape \(3, 2\); expected \[N > 0, 3\]: .* tokens, correct tokens"),
        (("regression", ("accuracy",), rows, np.zeros(3)), "unknown metric 'accuracy'; known: loss, mse"),
    ]:
        with pytest.raises(ValueError, match=message):
            score(*arguments)
