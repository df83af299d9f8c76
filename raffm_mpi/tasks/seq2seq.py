"""Sequence to sequence: a text and the text that it is to be turned into, such as its translation or summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from raffm_mpi.config import DataSettings
from raffm_mpi.data import IGNORED, Columns, ImageInput, Reader, Split, TextInput
from raffm_mpi.data.columns import STRINGS, only
from raffm_mpi.data.labels import read_column
from raffm_mpi.data.ragged import Ragged
from raffm_mpi.data.texts import TokenWriter, mark_empty, text_batches, token_tensors
from raffm_mpi.data.unreadable import Unreadable
from raffm_mpi.elastic.cost import Lengths
from raffm_mpi.tasks.base import Role, find_text
from raffm_mpi.tasks.language_modelling import LanguageModelling, predict_tokens

if TYPE_CHECKING:
    from datasets import Dataset, Features


class Seq2Seq(LanguageModelling):
    """A column of texts and one of targets, which must be named."""

    name = "seq2seq"
    roles: ClassVar[Mapping[str, Role]] = {"text": Role(STRINGS), "target": Role(STRINGS)}

    def claims(self, features: Features, named: Columns) -> bool:
        """The target is named."""
        return "target" in named.roles

    def find(self, features: Features, named: Columns) -> Mapping[str, str]:
        target = only("target", named.every("target"), features)
        return {"target": target, "text": find_text(features, named, target)}

    def is_withheld(self, split: Dataset, columns: Columns, names: Sequence[str]) -> bool:
        """Some targets are null, or all are empty."""
        targets = read_column(split, columns.of("target")).unique().to_pylist()
        return None in targets or targets == [""]

    def writer(self, inputs: ImageInput | TextInput, settings: DataSettings) -> TokenWriter:
        assert isinstance(inputs, TextInput)
        return Seq2SeqWriter(inputs, settings)

    def reader(self, folder: Path, role: str, meta: dict[str, Any]) -> Reader:
        return Seq2SeqReader(folder, role, meta)

    def full_lengths(self, columns: Columns, settings: DataSettings) -> Lengths:
        return {"num_tokens": settings.max_length, "num_targets": settings.max_target_length}

    def head(self, columns: Columns) -> str:
        return "Seq2SeqLM"

    def predict(self, outputs: Any, batch: Mapping[str, torch.Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
        return predict_tokens(outputs.logits, batch["labels"])


class Seq2SeqWriter(TokenWriter):
    """Writes source and target texts; the tokenizer decides what ends a target."""

    streams = ("input_ids",)

    def __init__(self, inputs: TextInput, settings: DataSettings) -> None:
        super().__init__(inputs, settings)
        self._max_target_length = settings.max_target_length
        self.identity.append(settings.max_target_length)

    def write(self, folder: Path, role: str, examples: Dataset, columns: Columns, unreadable: Unreadable) -> None:
        with self.file(folder, role) as sources, self.file(folder, f"{role}_target") as targets:
            for start, texts in text_batches(examples, (columns.of("text"), columns.of("target")), unreadable):
                source_texts, target_texts = texts.values()
                source = self.tokens([source_texts])
                target = self._tokenizer(text_target=target_texts, truncation=True, max_length=self._max_target_length)
                mark_empty(source["input_ids"], start, "text", unreadable)
                mark_empty(target["input_ids"], start, "target", unreadable)
                sources.append(source)
                targets.append(target)


class Seq2SeqReader(Reader):
    """Reads sources with targets as ``labels`` [B, longest target], -100 on padding."""

    def __init__(self, folder: Path, role: str, meta: dict[str, Any]) -> None:
        self._sources = Ragged(folder, role, meta["padding"])
        self._targets = Ragged(folder, f"{role}_target", {"input_ids": IGNORED})

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {**token_tensors(self._sources, rows), "labels": self._targets.padded(rows)[1]["input_ids"]}

    def mean_length(self, rows: np.ndarray) -> float:
        return self._sources.mean_length(rows)

    def mean_target_length(self, rows: np.ndarray) -> float:
        return self._targets.mean_length(rows)
