"""Texts: tokenised and truncated once, padded when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raffm_mpi.config import DataSettings
from raffm_mpi.data.columns import Columns
from raffm_mpi.data.formats import Reader, Writer, label_tensor, open_array
from raffm_mpi.data.inputs import TextInput
from raffm_mpi.data.ragged import Ragged, RaggedFile
from raffm_mpi.data.unreadable import Unreadable
from raffm_mpi.errors import UserMistake

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

TEXTS_PER_CALL = 1024
IGNORED = -100  # the label that the losses of transformers leave out


class TokenWriter(Writer):
    """Writes tokens: ``padding`` names the streams that are stored, of those that the tokenizer makes."""

    streams: tuple[str, ...] = ("input_ids", "token_type_ids")

    def __init__(self, inputs: TextInput, settings: DataSettings) -> None:
        self._tokenizer = load_tokenizer(inputs.tokenizer)
        self._max_length = inputs.max_length
        self.identity: list[Any] = [self._tokenizer.backend_tokenizer.to_str()]
        padding = {"input_ids": self._tokenizer.pad_token_id, "token_type_ids": self._tokenizer.pad_token_type_id}
        made = self._tokenizer.model_input_names
        self.padding = {name: padding[name] for name in self.streams if name in made}

    def file(self, folder: Path, prefix: str) -> RaggedFile:
        """A file of the stored streams."""
        return RaggedFile(folder, prefix, dict.fromkeys(self.padding, ()))

    def tokens(self, texts: Sequence[list[str]]) -> dict[str, list[list[int]]]:
        """The streams of single texts or of pairs, truncated."""
        streams: dict[str, list[list[int]]] = self._tokenizer(
            *texts, truncation=True, max_length=self._max_length, return_attention_mask=False
        )
        return streams


class TextWriter(TokenWriter):
    """Writes texts, or pairs of texts, that have a label."""

    def write(self, folder: Path, role: str, examples: Dataset, columns: Columns, unreadable: Unreadable) -> None:
        with self.file(folder, role) as file:
            for start, texts in text_batches(examples, (columns.of("text"), columns.one("text_pair")), unreadable):
                streams = self.tokens(list(texts.values()))
                mark_empty(streams["input_ids"], start, "text", unreadable)
                file.append(streams)


class TextReader(Reader):
    """Reads texts: ``input_ids``, ``attention_mask``, where stored ``token_type_ids``, and ``labels`` [B]."""

    def __init__(self, folder: Path, role: str, meta: dict[str, Any]) -> None:
        self._tokens = Ragged(folder, role, meta["padding"])
        self._labels = open_array(folder / f"{role}_labels.npy")

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {**token_tensors(self._tokens, rows), "labels": label_tensor(self._labels[rows])}

    def mean_length(self, rows: np.ndarray) -> float:
        return self._tokens.mean_length(rows)


def token_tensors(tokens: Ragged, rows: np.ndarray) -> dict[str, torch.Tensor]:
    """The stored streams and ``attention_mask``, int64 [B, longest of the batch]."""
    is_token, streams = tokens.padded(rows)
    return {"attention_mask": is_token.long(), **streams}


def text_batches(
    examples: Dataset, columns: Sequence[str | None], unreadable: Unreadable
) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """The number of its first example and the columns, in the given order, of some examples at a time.

    An example with a value that is null is marked; the empty text stands in for the value.
    """
    names = [name for name in columns if name is not None]
    start = 0
    for batch in examples.select_columns(names).iter(batch_size=TEXTS_PER_CALL):
        for name in names:
            for number in [number for number, value in enumerate(batch[name]) if value is None]:
                unreadable.mark(start + number, f"column '{name}' is null")
                batch[name][number] = ""
        yield start, {name: batch[name] for name in names}
        start += len(batch[names[0]])


def mark_empty(tokens: list[list[int]], start: int, what: str, unreadable: Unreadable) -> None:
    """Mark the examples whose text has no tokens; the first has number ``start``."""
    for number in [number for number, ids in enumerate(tokens) if not ids]:
        unreadable.mark(start + number, f"the {what} has no tokens")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer, which pads with its end-of-text token where it has no pad token (GPT-2, Llama)."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
    except Exception as error:  # the hub, the network, the disk, the file formats
        raise UserMistake(f"data.tokenizer: '{name}' cannot be loaded: {' '.join(str(error).split())}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserMistake(f"data.tokenizer: '{name}' has no fast tokenizer (tokenizer.json), the only kind allowed")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserMistake(f"data.tokenizer: '{name}' has neither a pad nor an end-of-text token; name one that has")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
