"""Texts: what is stored of them and what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_sets import (
    WORDS,
    prepared,
    settings_for,
    write,
    write_texts,
    write_tokenizer,
)
from transformers import AutoTokenizer

from raffm_mpi.data import TextInput


@pytest.mark.parametrize("pair", [False, True])
def test_text_is_read_as_the_tokenizer_pads_it(pair: bool, tmp_path: Path) -> None:
    first, second = ["a fine film", "dull", "and long and dull and long"], ["long and dull", "fine", "film"]
    columns = {"one": first, **({"two": second} if pair else {}), "label": [0, 1, 0]}
    name = write_tokenizer(tmp_path / "tok", [*WORDS[1:4], "[PAD]", *WORDS[4:]])
    settings = settings_for(write(tmp_path / "set", "train", columns), tmp_path, validation_fraction=0)
    data = prepared(settings, TextInput(name, 7))
    rows = [2, 0, 1, 0]
    texts = [[column[row] for row in rows] for column in (first, second)[: 1 + pair]]
    expected = AutoTokenizer.from_pretrained(name)(
        *texts, truncation=True, max_length=7, padding="longest", return_tensors="pt"
    )
    batch = data.train.batch(np.array(rows))
    assert batch.keys() == {*expected.keys(), "labels"}
    assert all(torch.equal(batch[key], expected[key]) and batch[key].dtype == torch.int64 for key in expected)
    assert data.train.batch(np.array([1]))["input_ids"].shape == (1, 5 if pair else 3)
    assert data.pad_token_id == 3
    by_row = expected["attention_mask"].sum(dim=1).tolist()
    assert data.train.mean_length == pytest.approx(np.mean([by_row[1], by_row[2], by_row[0]]))


def test_token_types_are_stored_only_where_the_tokenizer_makes_them(tmp_path: Path) -> None:
    name = write_tokenizer(tmp_path / "tok", model_input_names=["input_ids", "attention_mask"])
    batch = prepared(settings_for(write_texts(tmp_path / "set"), tmp_path), TextInput(name, 8)).train.batch(
        np.arange(2)
    )
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}


def test_more_texts_than_one_call_takes_stay_in_order(tmp_path: Path) -> None:
    texts = [" ".join(["film"] * (1 + i % 6)) for i in range(2500)]
    folder = write_texts(tmp_path / "set", text=texts, label=[0] * 2500)
    settings = settings_for(folder, tmp_path, validation_fraction=0)
    train = prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 16)).train
    lengths = train.batch(np.arange(2500))["attention_mask"].sum(dim=1)
    assert lengths.tolist() == [3 + i % 6 for i in range(2500)]
