"""Regression: numbers are read, held out and scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_sets import (
    prepared,
    settings_for,
    write,
    write_plain_tokenizer,
)

from raffm_mpi.data import TextInput
from raffm_mpi.errors import UserMistake


def test_scores_are_read_as_numbers(tmp_path: Path) -> None:
    scores = [0.1, 5.0, -2.25, 3.0]
    columns = {"text": ["a film", "dull", "fine", "a"], "label": scores}
    settings = settings_for(write(tmp_path / "set", "train", columns), tmp_path, validation_fraction=0.0)
    train = prepared(settings, TextInput(write_plain_tokenizer(tmp_path / "tok"), 8)).train
    assert train.labels.dtype == np.float64 and train.labels.tolist() == scores
    batch = train.batch(np.array([2, 0]))
    assert batch["labels"].dtype == torch.float32 and torch.equal(batch["labels"], torch.tensor([-2.25, 0.1]))
    assert batch["input_ids"].tolist() == [[2, 5, 3, 0], [2, 4, 6, 3]] and train.mean_target_length == 0.0


def test_scores_are_held_out_without_strata(tmp_path: Path) -> None:
    scores = [float(i) for i in range(20)]
    folder = write(tmp_path / "set", "train", {"text": ["a"] * 20, "label": scores})
    data = prepared(
        settings_for(folder, tmp_path, validation_fraction=0.3), TextInput(write_plain_tokenizer(tmp_path), 8)
    )
    assert data.validation is not None and (len(data.train), len(data.validation)) == (14, 6)
    assert sorted([*data.train.labels, *data.validation.labels]) == scores


@pytest.mark.parametrize(("bad", "shown"), [(None, "None"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_a_score_that_is_no_number_is_named_by_row(bad: float | None, shown: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"text": ["a"] * 3, "label": [0.5, 1.5, bad]})
    name = write_plain_tokenizer(tmp_path / "tok")
    with pytest.raises(UserMistake, match=f"^data.path: split 'train', row 2: label {shown} is not a finite number$"):
        prepared(settings_for(folder, tmp_path), TextInput(name, 8))
