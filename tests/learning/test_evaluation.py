"""Predictions are a model's own, whoever makes them, and every client is scored on examples like its own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from raffm_mpi.data import Columns, DataInfo, Partition, share
from raffm_mpi.learning.evaluation import evaluate, num_predictions, score_clients, score_split
from raffm_mpi.learning.training import Processor
from raffm_mpi.tasks.question_answering import QuestionReader, References

DEVICE = Processor(torch.device("cpu"))
NUM, LENGTH, CLASSES = 37, 7, 5

# A task of each form of batch and predictions.
MADE = ("image_classification", "regression", "question_answering", "seq2seq", "causal_lm")


class Numbers:
    """A split of made-up examples, whose model is a table of logits."""

    truth = None

    def __init__(self, batch, labels=None, reader=None):
        self._batch, self.labels, self.reader = batch, labels, reader
        self.rows = np.arange(NUM)
        self.examples = np.arange(NUM)

    def __len__(self):
        return NUM

    def batch(self, rows):
        return {name: tensor[rows] for name, tensor in self._batch.items()}


class Spans(QuestionReader):
    """Tokens of one character each, after the [CLS] token."""

    def __init__(self):
        pass

    def spans(self, rows):
        starts = np.arange(LENGTH) * 2
        spans = np.tile(np.stack([starts, starts + 1], axis=1), (len(rows), 1, 1))
        spans[:, 0] = -1  # the [CLS] token
        return spans


class Table(torch.nn.Module):
    """Returns the rows of some tensors, one a field of the outputs."""

    def __init__(self, **fields):
        super().__init__()
        self.fields = fields

    def forward(self, row, **_):
        return SimpleNamespace(**{name: tensor[row] for name, tensor in self.fields.items()})


def info(task):
    return DataInfo(task, Columns(), tuple("abcde") if task.endswith("classification") else (), ())


def made(task):
    """A split and a model of a task."""
    torch.manual_seed(0)
    rows = {"row": torch.arange(NUM)}
    if task in ("image_classification", "text_classification"):
        labels = torch.randint(CLASSES, (NUM,))
        return Numbers({**rows, "labels": labels}, labels.numpy()), Table(logits=torch.randn(NUM, CLASSES))
    if task == "regression":
        labels = torch.rand(NUM)
        return Numbers({**rows, "labels": labels}, labels.double().numpy()), Table(logits=torch.randn(NUM, 1))
    if task == "question_answering":
        positions = {name: torch.randint(LENGTH, (NUM,)) for name in ("start_positions", "end_positions")}
        logits = {name: torch.randn(NUM, LENGTH) for name in ("start_logits", "end_logits")}
        return Numbers({**rows, **positions}, reader=Spans()), Table(**logits)
    labels = torch.randint(CLASSES, (NUM, LENGTH))
    labels[:, -2:] = -100
    return Numbers({**rows, "labels": labels}, np.zeros(NUM, np.int64)), Table(logits=torch.randn(NUM, LENGTH, CLASSES))


@pytest.mark.parametrize("task", MADE)
def test_shards_of_an_evaluation_add_up_to_the_whole(task):
    split, model = made(task)
    whole = evaluate(model, split, info(task), DEVICE, 8)
    assert whole.shape == (NUM, num_predictions(info(task)))
    assert (whole != 0).any(axis=1).all()
    parts = [evaluate(model, split, info(task), DEVICE, 8, range(first, -(-NUM // 8), 3)) for first in range(3)]
    assert np.array_equal(sum(parts), whole)


def test_the_loss_of_classes_is_the_cross_entropy():
    split, model = made("text_classification")
    predictions = evaluate(model, split, info("text_classification"), DEVICE, 8)
    scores = score_split(info("text_classification"), ("accuracy",), predictions, split)
    logits, labels = model.fields["logits"], torch.from_numpy(split.labels)
    assert scores["loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-6)
    assert scores["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_a_language_model_predicts_the_next_token_and_a_decoder_the_same():
    split, model = made("causal_lm")
    logits, labels = model.fields["logits"], split.batch(np.arange(NUM))["labels"]
    for task, said, meant in (
        ("causal_lm", logits[:, :-1], labels[:, 1:]),
        ("seq2seq", logits, labels),
    ):
        predictions = evaluate(model, split, info(task), DEVICE, 8)
        scores = score_split(info(task), ("perplexity", "token_accuracy"), predictions, split)
        expected = functional.cross_entropy(said.reshape(-1, CLASSES), meant.reshape(-1), ignore_index=-100)
        assert scores["perplexity"] == pytest.approx(float(expected.exp()), rel=1e-6)
        kept = meant != -100
        assert scores["token_accuracy"] == pytest.approx(float((said.argmax(-1) == meant)[kept].double().mean()))


def test_answers_are_scored_by_example_and_not_by_window():
    split, model = made("question_answering")
    predictions = evaluate(model, split, info("question_answering"), DEVICE, 8)
    context = "a b c d e f g"
    owner = np.arange(NUM) // 2  # two windows an example
    split.truth = References(owner, [context] * (owner[-1] + 1), [["b c"]] * (owner[-1] + 1))
    scores = score_split(info("question_answering"), ("f1", "exact_match"), predictions, split)
    hits = []
    for example in range(owner[-1] + 1):
        windows = predictions[owner == example]
        start, end = windows[windows[:, 1].argmax(), 2:4].astype(int)
        hits.append(context[start:end] == "b c")
    assert scores["exact_match"] == pytest.approx(np.mean(hits))
    one = score_clients(info("question_answering"), ("f1",), predictions, split, np.where(owner < 3, 4, -1))
    assert one.keys() == {4}


def test_scores_of_clients_are_of_their_rows_alone():
    split, model = made("image_classification")
    predictions = evaluate(model, split, info("image_classification"), DEVICE, 8)
    owners = np.arange(NUM) % 3 - 1  # -1: nobody's
    scores = score_clients(info("image_classification"), ("accuracy",), predictions, split, owners)
    assert scores.keys() == {0, 1}
    for client, found in scores.items():
        mine = owners == client
        assert found["accuracy"] == pytest.approx((predictions[mine, 1] == split.labels[mine]).mean())


def test_a_clients_share_has_the_classes_of_its_training_examples():
    labels = np.repeat([0, 1, 2], 60)
    # client 0 holds class 0 and half of class 1, client 1 the other half, client 2 all of class 2
    indices = np.concatenate([np.arange(90), np.arange(90, 120), np.arange(120, 180)])
    partition = Partition(indices, np.array([0, 90, 120, 180]))
    others = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], 20))
    owners = share(partition, labels, others, seed=0)
    counts = {
        (label, owner): int(((others == label) & (owners == owner)).sum())
        for label in range(4)
        for owner in range(-1, 3)
    }
    assert {key: count for key, count in counts.items() if count} == {
        (0, 0): 20,
        (1, 0): 10,
        (1, 1): 10,
        (2, 2): 20,
        (3, -1): 20,  # a class that no client holds
    }
    assert np.array_equal(owners, share(partition, labels, others, seed=0))
    assert not np.array_equal(owners, share(partition, labels, others, seed=1))


def test_without_classes_shares_follow_the_clients_sizes():
    partition = Partition(np.arange(100), np.array([0, 75, 100]))
    owners = share(partition, np.zeros(100, np.int64), np.zeros(40, np.int64), seed=0)
    assert np.bincount(owners).tolist() == [30, 10]
