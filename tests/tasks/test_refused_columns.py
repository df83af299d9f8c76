"""Columns that no task can read are refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest
from made_sets import (
    PIXELS,
    png,
    settings_for,
    write,
)

from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks import inspect

ANSWERS = {"text": ["dull"], "answer_start": [0]}
QUESTIONS = {"id": ["x"], "title": ["t"], "context": ["dull film"], "question": ["a film"], "answers": [ANSWERS]}
TWO = datasets.ClassLabel(names=["x", "y"])
SCORES = datasets.Value("float32")


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "score for classes": (
        {"text": ["a"], "label": [0.5]},
        {"task": "text_classification"},
        {},
        "data.columns.label: column 'label' holds float64; task text_classification allows class labels, whole numbers",
    ),
    "strings for scores": (
        {"text": ["a"], "label": ["x"]},
        {"task": "regression"},
        {},
        "data.columns.label: column 'label' holds string; task regression allows numbers",
    ),
    "classes for scores": (
        {"text": ["a"], "label": [0]},
        {"task": "regression"},
        {"label": TWO},
        "data.columns.label: column 'label' holds class labels; task regression allows numbers",
    ),
    "no image": (
        {"text": ["a"], "label": [0]},
        {"task": "image_classification"},
        {},
        "data.columns.image: no column is known as the image; name one of text, label",
    ),
    "no context": (
        {"text": ["a"], "question": ["b"]},
        {"task": "question_answering"},
        {},
        "data.columns.context: no column is known as the context; name one of text, question",
    ),
    "no target": (
        {"text": ["a"], "summary": ["b"]},
        {"task": "seq2seq"},
        {},
        "data.columns.target: no column is known as the target; name one of text, summary",
    ),
    "two texts to continue": (
        {"a": ["a"], "b": ["b"]},
        {"task": "causal_lm"},
        {},
        "data.columns.text: columns a, b may all be the text; name one",
    ),
    "what may be a label": (
        {"text": ["a"], "stars": [0.5]},
        {},
        {},
        "data.columns.label: no column is known as the label; name one of text, stars; set data.task: causal_lm for",
    ),
    "another task's column": (
        {"text": ["a"], "label": [0], "summary": ["b"]},
        {"task": "text_classification", "columns": {"target": "summary"}},
        {},
        "data.columns.target: column 'summary' is named, but text_classification reads only text, text_pair, label",
    ),
    "a label of questions": (
        QUESTIONS,
        {"task": "question_answering", "columns": {"label": "title"}},
        {},
        "data.columns.label: column 'title' is named, but question_answering reads only question, context, answers",
    ),
    "one column twice": (
        {"text": ["a"]},
        {"columns": {"text": "text", "target": "text"}},
        {},
        "data.columns: text, target name columns text, text; a column has one role",
    ),
    "target of numbers": (
        {"text": ["a"], "n": [1]},
        {"columns": {"target": "n"}},
        {},
        "data.columns.target: column 'n' holds int64; task seq2seq allows strings",
    ),
    "answers of strings": (
        {**QUESTIONS, "answers": ["dull"]},
        {},
        {},
        "data.columns.answers: column 'answers' holds string; task question_answering allows answers of",
    ),
    "answers without starts": (
        {**QUESTIONS, "answers": [{"text": ["dull"]}]},
        {},
        {},
        "data.columns.answers: column 'answers' holds {'text': List(Value('string'))}; task question_answering allows",
    ),
    "answers of numbers": (
        {**QUESTIONS, "answers": [{"text": [1], "answer_start": [0]}]},
        {},
        {},
        "data.columns.answers: column 'answers' holds {'text': List(Value('int64')), 'answer_start': List(Value('int64",
    ),
    "unknown column": (
        QUESTIONS,
        {"columns": {"context": "passage"}},
        {},
        "data.columns.context: column 'passage' is not in the data set; columns: id, title, context, question, answers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_contradict_the_task_are_one_clear_sentence(case: str, tmp_path: Path) -> None:
    columns, options, features, sentence = REFUSED[case]
    folder = write(tmp_path / "set", "train", columns, **features)
    with pytest.raises(UserMistake, match=f"^{re.escape(sentence)}") as caught:
        inspect(settings_for(folder, tmp_path, **options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["dirichlet", "shards", "k_shot"])
@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("regression", {"text": ["a"], "label": [0.5]}),
        ("question_answering", QUESTIONS),
        ("causal_lm", {"text": ["a"]}),
    ],
)
def test_partitions_by_class_need_classes(kind: str, task: str, columns: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", columns)
    needed = f"needs examples of one class each, which {task} does not have"
    sentence = f"data.partition.kind: '{kind}' {needed}; allowed are iid, by_column"
    with pytest.raises(UserMistake, match=f"^{sentence}$"):
        inspect(settings_for(folder, tmp_path, partition={"kind": kind}))
    assert inspect(settings_for(folder, tmp_path, partition={"kind": "iid"})).task == task


PICTURE = [png(PIL.Image.fromarray(PIXELS[0]))]
BAD_COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown name": (
        {"a": ["t"], "b": [0]},
        {"label": "x"},
        "label: column 'x' is not in the data set; columns: a, b",
    ),
    "no label": (
        {"a": ["t"], "b": [0]},
        {},
        "label: no column is known as the label; name one of a, b; set data.task: causal_lm for texts without one$",
    ),
    "two labels": (
        {"text": ["t"], "target": [0], "category": [0]},
        {},
        "label: columns target, category may all be the label; name one",
    ),
    "real label of an image": (
        {"a_image": PICTURE, "label": [0.5]},
        {},
        "label: column 'label' holds float64; task image_classification allows class labels, whole numbers, strings",
    ),
    "no text": (
        {"a": [1], "label": [0]},
        {},
        "text: no column is known as the text; name one of a, label",
    ),
    "three texts": (
        {"a": ["t"], "b": ["t"], "c": ["t"], "label": [0]},
        {},
        "text: columns a, b, c may all be the text; name one",
    ),
    "text of numbers": (
        {"a": [1], "label": [0]},
        {"text": "a"},
        "text: column 'a' holds int64; task text_classification allows strings",
    ),
    "list as text": (
        {"a": [["t"]], "label": [0]},
        {"text": "a"},
        "text: column 'a' holds .*; task text_classification allows strings",
    ),
    "two images": (
        {"a_image": PICTURE, "b_image": PICTURE, "label": [0]},
        {},
        "image: columns a_image, b_image may all be the image; name one",
    ),
    "image of strings": (
        {"a": ["t"], "label": [0]},
        {"image": "a"},
        "image: column 'a' holds string; task image_classification allows images",
    ),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_a_column_mistake_is_one_clear_sentence(case: str, tmp_path: Path) -> None:
    columns, named, sentence = BAD_COLUMNS[case]
    images = {name: datasets.Image() for name in columns if name.endswith("_image")}
    folder = write(tmp_path / "set", "train", columns, **images)
    with pytest.raises(UserMistake, match=rf"^data\.columns\.{sentence}"):
        inspect(settings_for(folder, tmp_path, columns=named))


def test_two_class_labels_are_ambiguous(tmp_path: Path) -> None:
    columns = {"text": ["t"], "fine_label": [0], "coarse_label": [0]}
    folder = write(tmp_path / "set", "train", columns, fine_label=TWO, coarse_label=TWO)
    with pytest.raises(UserMistake, match="columns fine_label, coarse_label may all be the label; name one"):
        inspect(settings_for(folder, tmp_path))
