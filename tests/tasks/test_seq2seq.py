"""Sequence to sequence: sources are read with their targets."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from made_sets import (
    prepare,
    prepared,
    settings_for,
    write,
    write_plain_tokenizer,
)
from transformers import AutoTokenizer

from raffm_mpi.data import TextInput
from raffm_mpi.tasks import inspect


@pytest.fixture
def translations(tmp_path: Path) -> Path:
    columns = {
        "to": ["a film and a film and a", "fine", "dull and long"],
        "from": ["a film", "dull", "fine and long and dull and a"],
    }
    return write(tmp_path / "set", "train", columns)


def test_sources_are_read_with_their_targets(translations: Path, tmp_path: Path) -> None:
    options = {"columns": {"target": "to"}, "max_target_length": 4, "validation_fraction": 0.0}
    settings = settings_for(translations, tmp_path, **options)
    name = write_plain_tokenizer(tmp_path / "tok", "$A [SEP]")
    data = prepared(settings, TextInput(name, 6))
    rows = [2, 0, 1]
    source = datasets.Dataset.from_parquet(str(translations / "train.parquet"), cache_dir=str(tmp_path / "hf2"))[rows]
    tokenizer = AutoTokenizer.from_pretrained(name)
    expected = tokenizer(source["from"], truncation=True, max_length=6, padding=True, return_tensors="pt")
    targets = tokenizer(text_target=source["to"], truncation=True, max_length=4)["input_ids"]
    batch = data.train.batch(np.array(rows))
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["labels"].tolist() == [ids + [-100] * (4 - len(ids)) for ids in targets]
    assert batch["labels"].dtype == torch.int64 and batch["labels"][1, -1] == 3
    assert data.train.mean_length == pytest.approx((3 + 2 + 6) / 3)
    assert data.train.mean_target_length == pytest.approx((4 + 2 + 4) / 3)
    assert data.train.truth is None


def test_the_length_of_targets_changes_the_folder(translations: Path, tmp_path: Path) -> None:
    inputs = TextInput(write_plain_tokenizer(tmp_path / "tok"), 6)
    folders = []
    for length in (4, 5):
        settings = settings_for(
            translations, tmp_path, columns={"target": "to"}, max_target_length=length, validation_fraction=0.0
        )
        folders.append(prepare(inspect(settings), settings, inputs, 0))
    assert folders[0] != folders[1]
