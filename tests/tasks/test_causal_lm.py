"""Causal language modelling: texts are their own labels."""

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
from transformers import AutoTokenizer

from raffm_mpi.data import TextInput
from raffm_mpi.errors import UserMistake


def test_texts_are_cut_one_by_one_and_are_their_own_labels(tmp_path: Path) -> None:
    texts = ["a fine film and long", "dull film", "a and a"]
    settings = settings_for(write(tmp_path / "set", "train", {"text": texts}), tmp_path, validation_fraction=0.0)
    name = write_plain_tokenizer(tmp_path / "tok", "$A")
    data = prepared(settings, TextInput(name, 4))
    rows = [2, 0, 1]
    expected = AutoTokenizer.from_pretrained(name)(
        [texts[row] for row in rows], truncation=True, max_length=4, padding=True, return_tensors="pt"
    )
    batch = data.train.batch(np.array(rows))
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["labels"].tolist() == [[4, 8, 4, -100], [4, 5, 6, 8], [7, 6, -100, -100]]
    assert data.train.labels.tolist() == [0, 0, 0] and data.train.labels.dtype == np.int64
    assert data.train.mean_length == 3.0


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_of_text(tmp_path: Path) -> None:
    settings = settings_for(
        write(tmp_path / "set", "train", {"text": ["a film", "dull and long"]}), tmp_path, validation_fraction=0.0
    )
    name = write_plain_tokenizer(tmp_path / "tok", "$A [SEP]", pad_token=None, padding_side="left")
    data = prepared(settings, TextInput(name, 8))
    assert data.pad_token_id == 3
    batch = data.train.batch(np.arange(2))
    assert batch["input_ids"].tolist() == [[4, 6, 3, 3], [7, 8, 9, 3]]
    assert batch["labels"].tolist() == [[4, 6, 3, -100], [7, 8, 9, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_texts_with_nothing_to_predict_are_left_out(tmp_path: Path) -> None:
    texts, users = ["", "a film", "dull", "fine and long", "", "a a"], ["u", "v", "v", "u", "w", "w"]
    folder = write(tmp_path / "set", "train", {"text": texts, "user": users})
    partition = {"kind": "by_column", "column": "user"}
    settings = settings_for(folder, tmp_path, validation_fraction=0.0, partition=partition)
    inputs = TextInput(write_plain_tokenizer(tmp_path / "tok", "$A"), 8)
    data = prepared(settings, inputs)
    assert data.train.batch(np.arange(3))["input_ids"].tolist() == [[4, 6, 0], [5, 8, 9], [4, 4, 0]]
    assert data.train.examples.tolist() == [1, 3, 5]
    assert data.groups is not None and data.groups.tolist() == [1, 0, 2]
    for seed in range(5):
        held = prepared(settings.model_copy(update={"validation_fraction": 0.34}), inputs, seed)
        assert held.validation is not None and len(held.validation) == 1
        assert sorted([*held.train.examples, *held.validation.examples]) == [1, 3, 5]
    empty = settings_for(write(tmp_path / "empty", "train", {"text": ["", "a"]}), tmp_path)
    with pytest.raises(UserMistake, match=r"^data.path: split 'train': no text has two tokens or more, so there is"):
        prepared(empty, inputs)
