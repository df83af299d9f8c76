"""Prepared examples, memory-mapped: the ranks of one node share the pages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raffm_mpi.data.fingerprint import load_fingerprint
from raffm_mpi.data.formats import Format, Reader, open_array
from raffm_mpi.data.unreadable import UnreadableExample, load_unreadable

META = "meta.json"
HELD_OUT = "validation_examples.npy"


class Split:
    """One split: rows, which are what a batch is made of; a row is an example, or a part of one such as a window.

    ``labels``: of each row, as its task has them (``[N]`` or ``[N, K]``). ``classes``: those by which rows are dealt to
    clients, int64 [N]. ``examples``: of which example of the published split each row was made, ascending, int64 [N].
    ``mean_length``: tokens a row, 0.0 for images. ``mean_target_length``: tokens a target, 0.0 without.
    """

    def __init__(
        self,
        reader: Reader,
        labels: np.ndarray,
        classes: np.ndarray,
        examples: np.ndarray,
        rows: np.ndarray,
        unreadable: dict[int, str],
    ) -> None:
        self.reader = reader
        self.rows = rows  # as the reader numbers them, int64 [N]
        self.examples = examples[rows]
        self.labels = labels[self.examples]
        self.classes = classes[self.examples]
        self.mean_length = reader.mean_length(rows)
        self.mean_target_length = reader.mean_target_length(rows)
        self._unreadable = unreadable

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """The rows at ``indices`` (int64 [B]), as a transformer takes them; L is the longest of the batch.

        Images: ``pixel_values`` (float32 [B, C, H, W]). Texts: ``input_ids``, ``attention_mask`` and, where the task
        stores and the tokenizer makes them, ``token_type_ids`` (int64 [B, L]). Beside them what is to be learned, in
        the names that the task's head takes: mostly ``labels``.

        Raises UnreadableExample if one of the rows is of an example that cannot be read.
        """
        if self._unreadable:
            met = self._unreadable.keys() & self.examples[indices].tolist()
            if met:
                raise UnreadableExample(self._unreadable[min(met)])
        return self.reader.batch(self.rows[indices])

    @cached_property
    def truth(self) -> Any:
        """What predictions are scored by beside labels, read when it is first asked for; None for most tasks."""
        return self.reader.truth(self.rows, self.examples)


@dataclass(frozen=True)
class FederatedData:
    """What a run reads: the splits, the group of each training row (int64 [N], by_column only), the pad token.

    ``fingerprint`` is a SHA-256 (hexadecimal) of every row in its order, of its split and of what may be predicted.
    It does not depend on where data set and cache are: two runs with the same one read the same examples.
    """

    train: Split
    validation: Split | None
    test: Split | None
    groups: np.ndarray | None
    pad_token_id: int | None
    fingerprint: str


def open_data(folder: Path, task: Format) -> FederatedData:
    """Open a folder that :func:`prepare` returned for the same task; examples stay on the disk until they are read."""
    root = folder if (folder / META).exists() else folder.parent
    meta = json.loads((root / META).read_text(encoding="utf-8"))
    examples = {role: stored_examples(root, role, size) for role, size in meta["num_examples"].items()}
    rows = {role: np.arange(len(made_of)) for role, made_of in examples.items()}
    sources = {role: role for role in rows}
    if root != folder:
        is_held_out = np.isin(examples["train"], np.load(folder / HELD_OUT))
        rows["train"], rows["validation"] = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
        sources["validation"] = "train"
    unreadable = {role: load_unreadable(root, role) for role in examples}
    readers = {role: task.reader(root, role, meta) for role in examples}
    labels = {role: open_array(root / f"{role}_labels.npy") for role in examples}
    classes = {role: task.classes(own, labels["train"]) for role, own in labels.items()}
    splits = {
        role: Split(readers[source], labels[source], classes[source], examples[source], rows[role], unreadable[source])
        for role, source in sources.items()
    }
    by_column = meta["columns"]["group"] is not None
    groups = open_array(root / "train_groups.npy")[splits["train"].examples] if by_column else None
    pad_token_id = meta["padding"].get("input_ids")
    return FederatedData(
        splits["train"], splits.get("validation"), splits.get("test"), groups, pad_token_id, load_fingerprint(folder)
    )


def stored_examples(root: Path, role: str, num_examples: int) -> np.ndarray:
    """Of which example each stored row of a split was made, ascending, int64 [rows]."""
    path = root / f"{role}_examples.npy"
    return open_array(path) if path.exists() else np.arange(num_examples)
