"""The validation split that is held out of the training examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_sets import (
    GREY,
    PIXELS,
    prepared,
    settings_for,
    write_images,
    write_texts,
    write_tokenizer,
)

from raffm_mpi.data import TextInput
from raffm_mpi.data import cache as cache_room


def held_out_rows(labels: list[int], fraction: float, seed: int = 0) -> np.ndarray:
    return cache_room._hold_out(np.array(labels), fraction, seed)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.37, 0.8])
def test_the_held_out_split_is_stratified_within_one(fraction: float) -> None:
    labels = np.random.default_rng(0).choice(6, p=[0.5, 0.2, 0.1, 0.1, 0.06, 0.04], size=1003)
    rows = cache_room._hold_out(labels, fraction, 0)
    assert (np.abs(np.bincount(labels[rows]) - np.bincount(labels) * fraction) < 1).all()
    assert len(rows) == round(1003 * fraction) and (np.diff(rows) > 0).all()


def test_no_class_loses_its_last_example() -> None:
    labels = [0] * 10 + [1, 2, 3]
    assert set(np.array(labels)[held_out_rows(labels, 0.9)]) == {0}


def test_training_and_held_out_examples_are_the_training_split(tmp_path: Path) -> None:
    settings = settings_for("digits", tmp_path)
    whole = prepared(settings.model_copy(update={"validation_fraction": 0.0}), GREY).train
    held: list[torch.Tensor] = []
    for seed in (0, 1):
        data = prepared(settings, GREY, seed)
        assert data.validation is not None and len(data.train) + len(data.validation) == len(whole) == 1437
        both = [split.batch(np.arange(len(split))) for split in (data.train, data.validation)]
        rows = torch.cat([torch.cat([b["pixel_values"].flatten(1), b["labels"][:, None]], dim=1) for b in both])
        everything = whole.batch(np.arange(1437))
        expected = torch.cat([everything["pixel_values"].flatten(1), everything["labels"][:, None]], dim=1)
        assert np.array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0))
        held.append(both[1]["pixel_values"])
    assert not torch.equal(*held)


def test_a_published_validation_split_is_used_instead(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set")
    data = prepared(settings_for(write_images(folder, "validation", PIXELS[:4]), tmp_path), GREY)
    assert data.validation is not None and (len(data.train), len(data.validation)) == (12, 4)


def test_groups_go_with_the_training_examples(tmp_path: Path) -> None:
    users = ["zoe", "ann", "bob", "ann"] * 5
    texts = [f"{'film ' * (1 + users.index(user))}" for user in users]
    folder = write_texts(tmp_path / "set", text=texts, user=users, label=[0, 1] * 10)
    settings = settings_for(
        folder, tmp_path, validation_fraction=0.3, partition={"kind": "by_column", "column": "user"}
    )
    data = prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8))
    assert data.groups is not None and data.groups.dtype == np.int64 and len(data.groups) == len(data.train) == 14
    lengths = data.train.batch(np.arange(14))["attention_mask"].sum(dim=1) - 3
    assert data.groups.tolist() == [{0: 2, 1: 0, 2: 1}[int(length)] for length in lengths]
