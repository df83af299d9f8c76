"""Image classification: its columns, and the classes that its examples are dealt by."""

from __future__ import annotations

from pathlib import Path

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
    write_images,
)

from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks import inspect

PICTURE = [png(PIL.Image.fromarray(PIXELS[0]))]


def test_an_image_column_is_preferred_to_text_unless_text_is_named(tmp_path: Path) -> None:
    columns = {"pixels": [b"not decoded"], "caption": ["a"], "label": [0]}
    folder = write(tmp_path / "set", "train", columns, pixels=datasets.Image())
    assert inspect(settings_for(folder, tmp_path)).columns.one("image") == "pixels"
    assert inspect(settings_for(folder, tmp_path, columns={"text": "caption"})).task == "text_classification"


def test_image_and_text_are_not_both_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"a": PICTURE, "b": ["t"], "label": [0]}, a=datasets.Image())
    with pytest.raises(
        UserMistake, match=r"^data.columns.text: column 'b' is named, but image_classification reads only"
    ):
        inspect(settings_for(folder, tmp_path, columns={"image": "a", "text": "b"}))


def test_images_are_dealt_by_their_classes(tmp_path: Path) -> None:
    settings = settings_for(write_images(tmp_path / "set"), tmp_path, validation_fraction=0)
    info, train = inspect(settings), prepared(settings, GREY).train
    assert info.label_names == ("cat", "dog") and info.columns.roles == {"label": "label", "image": "picture"}
    assert train.labels.dtype == train.classes.dtype == np.int64
    assert train.labels.tolist() == train.classes.tolist() == [0, 1] * 6
    assert train.batch(np.array([1, 2]))["labels"].tolist() == [1, 0]
