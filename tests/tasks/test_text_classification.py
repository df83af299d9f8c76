"""Text classification: which classes there are, and what is none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from made_sets import (
    prepared,
    roles,
    settings_for,
    write,
    write_texts,
    write_tokenizer,
)

from raffm_mpi.data import TextInput
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks import inspect

TWO = datasets.ClassLabel(names=["x", "y"])


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["pos", "neg", "neg"], ("neg", "pos")),
        ([10, 9, -1], ("-1", "9", "10")),
        ([True, False, True], ("false", "true")),
    ],
)
def test_plain_labels_are_numbered_in_the_order_of_their_values(
    values: list[Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    folder = write(tmp_path / "set", "train", {"text": ["a"] * 3, "label": values})
    settings = settings_for(folder, tmp_path, validation_fraction=0)
    assert inspect(settings).label_names == names
    labels = prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8)).train.labels
    assert [names[label] for label in labels] == [str(value).lower() for value in values]


@pytest.mark.parametrize("hidden", [-1, None])
def test_a_test_split_with_withheld_labels_is_left_out(hidden: int | None, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["no", "yes"])
    folder = write(tmp_path / "set", "train", {"text": ["a", "b"], "label": [0, 1]}, label=names)
    write(folder, "test", {"text": ["a", "b"], "label": [hidden, hidden]}, label=datasets.Value("int64"))
    examples = datasets.Dataset.from_parquet(str(folder / "test.parquet"), cache_dir=str(tmp_path / "hf2"))
    examples.cast_column("label", names).to_parquet(folder / "test.parquet")
    assert roles(inspect(settings_for(folder, tmp_path))) == {"train": "train"}
    with pytest.raises(UserMistake, match=r"data.test_split: the labels of split 'test' are withheld$"):
        inspect(settings_for(folder, tmp_path, test_split="test"))


@pytest.mark.parametrize(("label", "shown"), [(2, "2"), (-1, "-1")])
def test_a_label_outside_the_classes_is_named_by_split_and_row(label: int, shown: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"text": ["a"] * 3, "label": [0, 1, 1]}, label=TWO)
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(table.set_column(1, table.schema.field("label"), [[0, 1, label]]), folder / "train.parquet")
    settings = settings_for(folder, tmp_path)
    with pytest.raises(UserMistake, match=f"split 'train', row 2: label {shown} is not one of the 2 classes"):
        prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8))


def test_a_label_that_training_never_shows_is_named_by_split_and_row(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "set")
    write_texts(folder, "test", sentence=["a", "b"], label=["good", "odd"])
    with pytest.raises(UserMistake, match=r"data.path: split 'test', row 1: label 'odd' is not one of the 2 classes"):
        prepared(settings_for(folder, tmp_path), TextInput(write_tokenizer(tmp_path / "tok"), 8))
