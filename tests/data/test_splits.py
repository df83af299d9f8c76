"""Which split is used for what, of a data set and its subsets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from made_sets import (
    WORDS,
    prepared,
    roles,
    settings_for,
    write,
    write_plain_tokenizer,
    write_texts,
)

from raffm_mpi.config import DataSettings
from raffm_mpi.data import TextInput
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks import inspect

ANSWERS = {"text": ["dull"], "answer_start": [0]}
QUESTIONS = {"id": ["x"], "title": ["t"], "context": ["dull film"], "question": ["a film"], "answers": [ANSWERS]}
TWO = datasets.ClassLabel(names=["x", "y"])
SCORES = datasets.Value("float32")


CONFIGURATIONS = """---
configs:
- {config_name: mrpc, data_files: mrpc/*.parquet}
- {config_name: sst2, data_files: sst2/*.parquet}
---
"""


SUBSETS = {"mrpc": "a film", "sst2": "dull film", "cola": "fine film"}


def write_subsets(folder: Path) -> Path:
    for name, text in SUBSETS.items():
        write(folder / name, "train", {"text": [text]})
    return folder


@pytest.mark.parametrize("readme", [CONFIGURATIONS, ""])
def test_a_subset_is_a_configuration_or_a_folder(readme: str, tmp_path: Path) -> None:
    folder = write_subsets(tmp_path / "set")
    (folder / "README.md").write_text(readme)
    inputs = TextInput(write_plain_tokenizer(tmp_path / "tok", "$A"), 8)
    for subset, text in SUBSETS.items():
        settings = settings_for(folder, tmp_path, subset=subset, validation_fraction=0)
        tokens = prepared(settings, inputs).train.batch(np.arange(1))["input_ids"]
        assert tokens.tolist() == [[WORDS.index(word) for word in text.split()]]


def test_a_wrong_subset_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    folder = write_subsets(tmp_path / "set")
    (folder / "README.md").write_text(CONFIGURATIONS)
    known = "known: mrpc, sst2, cola$"
    with pytest.raises(UserMistake, match=rf"^data.subset: 'x' is not in data set '{folder}'; {known}"):
        inspect(settings_for(folder, tmp_path, subset="x"))
    with pytest.raises(UserMistake, match=rf"^data.subset is missing: data set '{folder}' has several; {known}"):
        inspect(settings_for(folder, tmp_path))
    with pytest.raises(UserMistake, match=r"^data.subset: 'x' is not in data set 'digits', which has none$"):
        inspect(settings_for("digits", tmp_path, subset="x"))
    with pytest.raises(UserMistake, match=r"^data.path: 'nobody/nothing' cannot be loaded: "):
        inspect(settings_for("nobody/nothing", tmp_path, subset="x"))


def write_splits(folder: Path, labels: Mapping[str, list[int]]) -> Path:
    for split, values in labels.items():
        columns = {"premise": ["a"] * len(values), "hypothesis": ["b"] * len(values), "label": values}
        write(folder, split, columns)
    listed = "".join(f"  - {{split: {split}, path: {split}.parquet}}\n" for split in labels)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{listed}---\n")
    return folder


@pytest.mark.parametrize(("hidden", "test"), [(True, "validation_mismatched"), (False, "test_matched")])
def test_the_mismatched_validation_split_stands_in_for_a_withheld_test(hidden: bool, test: str, tmp_path: Path) -> None:
    tested = [7, 7] if hidden else [0, 1]
    shown = {name: [0, 1] for name in ("train", "validation_matched", "validation_mismatched")}
    folder = write_splits(tmp_path / "set", {**shown, "test_matched": tested, "test_mismatched": tested})
    if hidden:
        for split in ("test_matched", "test_mismatched"):
            write(folder, split, {"premise": ["a"] * 2, "hypothesis": ["b"] * 2, "label": [-1, -1]})
    assert roles(inspect(settings_for(folder, tmp_path))) == {
        "train": "train",
        "validation": "validation_matched",
        "test": test,
    }
    named = settings_for(folder, tmp_path, validation_split="validation_mismatched")
    assert roles(inspect(named)).get("test") == (None if hidden else "test_matched")


HIDDEN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "all scores -1": ({"text": ["a", "b"], "label": [0.5, -1.0]}, {"label": [-1.0, -1.0]}, {}),
    "a missing score": ({"text": ["a", "b"], "label": [0.5, 1.0]}, {"label": [0.5, None]}, {}),
    "no answers": (
        {"context": ["dull"] * 2, "question": ["a"] * 2, "answers": [ANSWERS, {"text": [], "answer_start": []}]},
        {"answers": [{"text": [], "answer_start": []}] * 2},
        {},
    ),
    "empty targets": ({"text": ["a", "b"], "to": ["b", ""]}, {"to": ["", ""]}, {"columns": {"target": "to"}}),
    "a missing target": ({"text": ["a", "b"], "to": ["b", "c"]}, {"to": ["b", None]}, {"columns": {"target": "to"}}),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_a_test_split_that_hides_what_is_asked_is_left_out(case: str, tmp_path: Path) -> None:
    columns, hidden, options = HIDDEN[case]
    features = datasets.Dataset.from_dict(columns).features
    folder = write(tmp_path / "set", "train", columns)
    write(folder, "test", columns)
    settings = settings_for(folder, tmp_path, **options)
    assert "test" in roles(inspect(settings))
    write(folder, "test", {**columns, **hidden}, **{name: features[name] for name in hidden})
    assert "test" not in roles(inspect(settings))
    with pytest.raises(UserMistake, match=r"^data.test_split: the labels of split 'test' are withheld$"):
        inspect(settings.model_copy(update={"test_split": "test"}))


def test_splits_are_found_by_their_names(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "set")
    for split in ("validation", "test", "extra"):
        write_texts(folder, split)
    names = {split: [f"{split}.parquet"] for split in ("train", "validation", "test", "extra")}
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {files[0]}\n" for split, files in names.items())
        + "---\n"
    )
    assert roles(inspect(settings_for(folder, tmp_path))) == {
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
    named = settings_for(folder, tmp_path, train_split="extra", validation_split="train", test_split="validation")
    assert roles(inspect(named)) == {"train": "extra", "validation": "train", "test": "validation"}
    borrowed = settings_for(folder, tmp_path, validation_split="test")
    assert roles(inspect(borrowed)) == {"train": "train", "validation": "test"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train_split": "x"}, "data.train_split: split 'x' is not in the data set; splits: train, test"),
        ({"validation_split": "x"}, "data.validation_split: split 'x' is not in the data set; splits: train, test"),
        ({"test_split": "x"}, "data.test_split: split 'x' is not in the data set; splits: train, test"),
        ({"test_split": "train"}, "data.test_split: split 'train' is the train split already"),
        ({"partition": {"kind": "by_column", "column": "x"}}, "data.partition.column: column 'x' is not in the data"),
        (
            {"partition": {"kind": "by_column", "column": "image"}},
            "data.partition.column: column 'image' holds .*; allowed are class labels, whole numbers, strings",
        ),
    ],
)
def test_a_split_or_group_mistake_is_one_clear_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserMistake, match=f"^{sentence}"):
        inspect(DataSettings.model_validate({"path": "digits", **options}))
