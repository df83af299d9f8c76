"""Causal language modelling: a text, each of whose tokens is predicted from those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from raffm_mpi.config import DataSettings
from raffm_mpi.data import IGNORED, Columns, ImageInput, Reader, Split, TextInput
from raffm_mpi.data.columns import ID_NAMES, STRINGS, label_columns, text_columns
from raffm_mpi.data.ragged import Ragged
from raffm_mpi.data.texts import TokenWriter, text_batches, token_tensors
from raffm_mpi.data.unreadable import Unreadable
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks.base import Role, find_text
from raffm_mpi.tasks.language_modelling import LanguageModelling, predict_tokens

if TYPE_CHECKING:
    from datasets import Dataset, Features


class CausalLM(LanguageModelling):
    """One column of texts."""

    name = "causal_lm"
    roles: ClassVar[Mapping[str, Role]] = {"text": Role(STRINGS)}

    def claims(self, features: Features, named: Columns) -> bool:
        """Beside identifiers and the group there is one column, of texts, and none may be a label."""
        if "label" in named.roles or label_columns(features, named.group):
            return False
        others = {name for name in features if name.lower() not in ID_NAMES} - {named.group}
        return others == set(text_columns(features, {named.group})) and len(others) == 1

    def find(self, features: Features, named: Columns) -> Mapping[str, str]:
        return {"text": find_text(features, named)}

    def is_withheld(self, split: Dataset, columns: Columns, names: Sequence[str]) -> bool:
        """A text hides nothing."""
        return False

    def writer(self, inputs: ImageInput | TextInput, settings: DataSettings) -> TokenWriter:
        assert isinstance(inputs, TextInput)
        return CausalWriter(inputs, settings)

    def reader(self, folder: Path, role: str, meta: dict[str, Any]) -> Reader:
        return CausalReader(folder, role, meta)

    def head(self, columns: Columns) -> str:
        return "CausalLM"

    def predict(self, outputs: Any, batch: Mapping[str, torch.Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
        return predict_tokens(outputs.logits[:, :-1], batch["labels"][:, 1:])


class CausalWriter(TokenWriter):
    """Writes texts to be continued; those of fewer than two tokens have nothing to predict and are left out.

    One that is null keeps a row: it is missing, not short.
    """

    streams = ("input_ids",)

    def write(self, folder: Path, role: str, examples: Dataset, columns: Columns, unreadable: Unreadable) -> None:
        kept = [np.zeros(0, dtype=np.int64)]
        with self.file(folder, role) as file:
            for start, texts in text_batches(examples, (columns.of("text"),), unreadable):
                tokens = self.tokens(list(texts.values()))["input_ids"]
                numbers = [number for number, ids in enumerate(tokens) if len(ids) > 1 or start + number in unreadable]
                file.append({"input_ids": [tokens[number] for number in numbers]})
                kept.append(start + np.array(numbers, dtype=np.int64))
        rows = np.concatenate(kept)
        if not len(rows):
            raise UserMistake(f"{unreadable.where}: no text has two tokens or more, so there is nothing to predict")
        np.save(folder / f"{role}_examples.npy", rows)


class CausalReader(Reader):
    """Reads texts with themselves as ``labels`` [B, L], -100 on padding; models shift them by one."""

    def __init__(self, folder: Path, role: str, meta: dict[str, Any]) -> None:
        self._tokens = Ragged(folder, role, meta["padding"])

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        tensors = token_tensors(self._tokens, rows)
        return {**tensors, "labels": tensors["input_ids"].masked_fill(tensors["attention_mask"] == 0, IGNORED)}

    def mean_length(self, rows: np.ndarray) -> float:
        return self._tokens.mean_length(rows)
