"""Which task a data set is of, and which columns it reads, where nobody says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from made_sets import (
    settings_for,
    write,
)

from raffm_mpi.data import DataInfo
from raffm_mpi.tasks import inspect

ANSWERS = {"text": ["dull"], "answer_start": [0]}
QUESTIONS = {"id": ["x"], "title": ["t"], "context": ["dull film"], "question": ["a film"], "answers": [ANSWERS]}
TWO = datasets.ClassLabel(names=["x", "y"])
SCORES = datasets.Value("float32")


def reads(info: DataInfo) -> dict[str, Any]:
    return dict(info.columns.roles) | ({"group": info.columns.group} if info.columns.group else {})


INFERRED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, dict[str, str]]] = {
    "class label": (
        {"text": ["a"], "label": [0]},
        {"label": TWO},
        {},
        "text_classification",
        {"text": "text", "label": "label"},
    ),
    "scored pair": (
        {"sentence1": ["a"], "sentence2": ["b"], "label": [4.5], "idx": [0]},
        {"label": SCORES},
        {},
        "regression",
        {"text": "sentence1", "text_pair": "sentence2", "label": "label"},
    ),
    "named score": (
        {"review": ["a"], "stars": [0.5]},
        {},
        {"label": "stars"},
        "regression",
        {"text": "review", "label": "stars"},
    ),
    "questions": (
        QUESTIONS,
        {},
        {},
        "question_answering",
        {"question": "question", "context": "context", "answers": "answers"},
    ),
    "questions by other names": (
        {"q": ["a"], "context": ["dull"], "gold": [ANSWERS]},
        {},
        {"question": "q", "answers": "gold"},
        "question_answering",
        {"question": "q", "context": "context", "answers": "gold"},
    ),
    "classes of questions": (
        {**QUESTIONS, "label": [0]},
        {},
        {"text": "question", "label": "label"},
        "text_classification",
        {"text": "question", "label": "label"},
    ),
    "target": (
        {"id": ["x"], "article": ["a"], "summary": ["b"]},
        {},
        {"target": "summary"},
        "seq2seq",
        {"text": "article", "target": "summary"},
    ),
    "target and source": (
        {"title": ["t"], "article": ["a"], "summary": ["b"]},
        {},
        {"target": "summary", "text": "title"},
        "seq2seq",
        {"text": "title", "target": "summary"},
    ),
    "text alone": ({"idx": [0], "text": ["a"]}, {}, {}, "causal_lm", {"text": "text"}),
}


@pytest.mark.parametrize("case", INFERRED)
def test_the_task_is_inferred_from_the_columns(case: str, tmp_path: Path) -> None:
    columns, features, named, task, expected = INFERRED[case]
    folder = write(tmp_path / "set", "train", columns, **features)
    info = inspect(settings_for(folder, tmp_path, columns=named))
    assert info.task == task and reads(info) == expected
    assert bool(info.label_names) == (task == "text_classification")


OVERRIDES: dict[str, tuple[str, dict[str, Any], dict[str, str], dict[str, str]]] = {
    "whole numbers are scores": (
        "regression",
        {"text": ["a"], "label": [3]},
        {},
        {"text": "text", "label": "label"},
    ),
    "labels are not read": ("causal_lm", {"text": ["a"], "label": [0]}, {}, {"text": "text"}),
    "questions are not read": ("causal_lm", QUESTIONS, {"text": "context"}, {"text": "context"}),
    "a picture is not read": (
        "text_classification",
        {"caption": ["a"], "picture": [b""], "label": [0]},
        {},
        {"text": "caption", "label": "label"},
    ),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_task_that_is_given_decides(case: str, tmp_path: Path) -> None:
    task, columns, named, expected = OVERRIDES[case]
    features = {"picture": datasets.Image()} if "picture" in columns else {}
    folder = write(tmp_path / "set", "train", columns, **features)
    info = inspect(settings_for(folder, tmp_path, task=task, columns=named))
    assert info.task == task and reads(info) == expected


def test_the_group_column_is_no_text_to_continue(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"text": ["a"], "user": ["u"]})
    info = inspect(settings_for(folder, tmp_path, partition={"kind": "by_column", "column": "user"}))
    assert info.task == "causal_lm" and reads(info) == {"text": "text", "group": "user"}


ONE = datasets.ClassLabel(names=["x"])
COLUMNS: dict[str, tuple[dict[str, list[Any]], dict[str, Any], dict[str, Any], tuple[str, str | None, str]]] = {
    "single sentence": ({"idx": [0], "guid": ["g"], "review": ["a"], "label": [0]}, {}, {}, ("review", None, "label")),
    "pair in order": (
        {"premise": ["a"], "hypothesis": ["b"], "labels": [0]},
        {},
        {},
        ("premise", "hypothesis", "labels"),
    ),
    "string label": ({"text": ["a"], "Label": ["x"]}, {}, {}, ("text", None, "Label")),
    "class label": ({"text": ["a"], "topic": [0], "class": [1]}, {"topic": ONE}, {}, ("text", None, "topic")),
    "label-like name": ({"text": ["a"], "target": [True]}, {}, {}, ("text", None, "target")),
    "one text by name": ({"title": ["a"], "body": ["b"], "label": [0]}, {}, {"text": "body"}, ("body", None, "label")),
    "pair by name": (
        {"title": ["a"], "body": ["b"], "label": [0]},
        {},
        {"text": "body", "text_pair": "title"},
        ("body", "title", "label"),
    ),
    "rest of a pair": (
        {"title": ["a"], "body": ["b"], "label": [0]},
        {},
        {"text_pair": "title"},
        ("body", "title", "label"),
    ),
    "label by name": (
        {"text": ["a"], "fine": [0], "coarse": [0]},
        {"fine": ONE, "coarse": ONE},
        {"label": "coarse"},
        ("text", None, "coarse"),
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_text_columns_are_inferred_unless_named(case: str, tmp_path: Path) -> None:
    columns, features, named, expected = COLUMNS[case]
    folder = write(tmp_path / "set", "train", columns, **features)
    found = inspect(settings_for(folder, tmp_path, columns=named)).columns
    assert tuple(found.one(role) for role in ("text", "text_pair", "label")) == expected and not found.every("image")


def test_the_group_column_is_neither_text_nor_label(tmp_path: Path) -> None:
    people = datasets.ClassLabel(names=["ann"])
    columns = {"text": ["a"], "user": [0], "writer": ["w"], "topic": [0]}
    folder = write(tmp_path / "set", "train", columns, user=people, topic=ONE)
    for group, others in (("user", ["writer"]), ("writer", ["user"])):
        named = {"text": "text"} if others == ["writer"] else {"label": "topic"}
        partition = {"kind": "by_column", "column": group}
        found = inspect(settings_for(folder, tmp_path, partition=partition, columns=named)).columns
        assert (found.one("text"), found.one("label"), found.group) == ("text", "topic", group)
