"""Data sets that cannot be read are refused in one sentence."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
from made_sets import (
    GREY,
    PIXELS,
    png,
    prepared,
    settings_for,
    write,
    write_texts,
    write_tokenizer,
)

from raffm_mpi.config import DataSettings
from raffm_mpi.data import ImageInput, TextInput
from raffm_mpi.data import cache as cache_room
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks import inspect


@pytest.mark.parametrize("path", ["./nowhere", "/no/where", "~/no-where", "a/b/c"])
def test_a_missing_folder_is_told_before_anything_is_imported(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserMistake, match=f"^data.path: folder '{os.path.expanduser(path)}' does not exist$"):
        inspect(DataSettings(path=path))


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,0\n")
    with pytest.raises(UserMistake, match=r"data.path: '.*a.csv' is a file; give the folder that holds it"):
        inspect(DataSettings(path=str(tmp_path / "a.csv")))


@pytest.mark.parametrize("path", ["nobody/nothing", "EMPTY"])
def test_a_data_set_that_cannot_be_loaded_is_one_sentence(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    path = path.replace("EMPTY", str(tmp_path / "empty"))
    with pytest.raises(UserMistake, match=f"data.path: '{path}' cannot be loaded: .") as caught:
        inspect(settings_for(path, tmp_path))
    assert "\n" not in str(caught.value)


TWO = datasets.ClassLabel(names=["x", "y"])


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (b"broken", "the image cannot be decoded: "),
        (png(PIL.Image.fromarray(PIXELS[0]))[:80], "the image cannot be decoded: "),
        (png(PIL.Image.new("I;16", (4, 4))), "the image cannot be decoded: mode I;16 has more than 8 bits a channel"),
        (None, "the image is missing"),
    ],
    ids=["no image", "half an image", "16 bits", "null"],
)
def test_a_bad_image_is_named_by_split_and_row(bad: bytes | None, sentence: str, tmp_path: Path) -> None:
    rows: list[bytes | None] = [png(PIL.Image.new("RGB", (4, 4)))] * 70
    write(tmp_path / "set", "train", {"image": rows, "label": [0] * 70}, image=datasets.Image())
    rows = [*rows[:50], bad, *rows[51:]]
    write(tmp_path / "set", "test", {"image": rows, "label": [0] * 70}, image=datasets.Image())
    with pytest.raises(UserMistake, match=f"^data.path: split 'test', row 50: {sentence}"):
        prepared(settings_for(tmp_path / "set", tmp_path), GREY)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"user": ["u", None]}, "row 1: column 'user' is null; by_column needs a value everywhere"),
        ({"label": ["x", None]}, "row 1: label None is not one of the 1 classes"),
    ],
)
def test_a_missing_group_or_label_is_named_by_split_and_row(
    columns: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    columns = {"text": ["a", "a"], "user": ["u", "u"], "label": ["x", "x"], **columns}
    partition = {"kind": "by_column", "column": "user"}
    settings = settings_for(write(tmp_path / "set", "train", columns), tmp_path, partition=partition)
    with pytest.raises(UserMistake, match=f"^data.path: split 'train', {sentence}"):
        prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8))


def test_a_tokenizer_mistake_is_one_clear_sentence(tmp_path: Path) -> None:
    settings = settings_for(write_texts(tmp_path / "set"), tmp_path)
    with pytest.raises(UserMistake, match=r"data.tokenizer: '.*' cannot be loaded: .") as caught:
        prepared(settings, TextInput(str(tmp_path / "nowhere"), 8))
    assert "\n" not in str(caught.value)
    name = write_tokenizer(tmp_path / "tok", pad_token=None)
    with pytest.raises(UserMistake, match=r"data.tokenizer: '.*tok' has neither a pad nor an end-of-text token; name"):
        prepared(settings, TextInput(name, 8))


def test_inputs_must_fit_the_data(tmp_path: Path) -> None:
    with pytest.raises(
        UserMistake, match=r"data.path: '.*' holds text_classification examples, but the model takes images$"
    ):
        prepared(settings_for(write_texts(tmp_path / "set"), tmp_path), GREY)
    with pytest.raises(UserMistake, match="model: images of 4 channels; allowed are 1"):
        ImageInput(4, 8, 8, (0.5,) * 4, (0.5,) * 4)
    with pytest.raises(UserMistake, match="model: images of 3 channels need as many means and deviations"):
        ImageInput(3, 8, 8, (0.5,), (0.5,))


def test_a_fraction_that_holds_out_nothing_is_refused() -> None:
    with pytest.raises(UserMistake, match=r"data.validation_fraction: 0.1 of 4 training examples holds out none"):
        cache_room._hold_out(np.array([0, 1, 0, 1]), 0.1, 0)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserMistake, match=r"data.cache: '.*cache' cannot be filled: "):
        prepared(settings_for("digits", tmp_path), GREY)
