"""Published data sets are understood as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_sets import (
    prepared,
    settings_for,
    write_tokenizer,
)

from raffm_mpi.data import ImageInput, TextInput
from raffm_mpi.tasks import inspect


def first_examples(source: Path, folder: Path, num_examples: int = 300) -> Path:
    """The first examples of each split, as a data set of their own."""
    folder.mkdir()
    for file in source.glob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, num_examples), folder / file.name)
    return folder


@pytest.mark.shared
def test_cifar10_is_understood(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    settings = settings_for(first_examples(shared_data("cifar10"), tmp_path / "set"), tmp_path)
    info = inspect(settings)
    assert (info.columns.one("image"), info.columns.one("label"), info.num_classes) == ("img", "label", 10)
    data = prepared(settings, ImageInput(3, 32, 32, (0.5,) * 3, (0.5,) * 3))
    assert data.test is not None and data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (270, 30, 300)
    assert data.train.batch(np.arange(64))["pixel_values"].shape == (64, 3, 32, 32)


@pytest.mark.shared
def test_sst2_is_understood(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    settings = settings_for(first_examples(shared_data("sst2"), tmp_path / "set"), tmp_path)
    info = inspect(settings)
    assert (info.columns.one("text"), info.columns.one("text_pair"), info.label_names) == (
        "sentence",
        None,
        ("negative", "positive"),
    )
    data = prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 32))
    assert data.validation is not None and len(data.train) == len(data.validation) == 300
    assert data.train.batch(np.arange(64))["input_ids"].shape[1] <= 32
    assert 5 < data.train.mean_length < 32
