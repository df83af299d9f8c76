"""Prepared examples, memory-mapped: the ranks of one node share the pages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

META = "meta.json"
HELD_OUT = "validation_rows.npy"


class ImageReader:
    """Stored images, uint8 [N, C, H, W], normalised when they are read."""

    def __init__(self, pixels: np.ndarray, mean: list[float], std: list[float]) -> None:
        self._pixels = pixels
        self._scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        # Two roundings, never a fused one: a pixel's bits do not depend on its place in the batch.
        return {"pixel_values": torch.from_numpy(self._pixels[rows]).float().mul_(self._scale).add_(self._shift)}

    def mean_length(self, rows: np.ndarray) -> float:
        return 0.0


class TextReader:
    """Stored tokens, each stream (input_ids, …) concatenated; padded on the right when they are read."""

    def __init__(self, streams: dict[str, np.ndarray], offsets: np.ndarray, padding: dict[str, int]) -> None:
        self._streams = streams
        self._offsets = offsets
        self._padding = padding

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        starts = self._offsets[rows]
        lengths = self._offsets[rows + 1] - starts
        columns = np.arange(lengths.max(initial=0))
        is_token = columns < lengths[:, None]
        places = (starts[:, None] + columns)[is_token]
        tensors = {"attention_mask": torch.from_numpy(is_token.astype(np.int64))}
        for name, stream in self._streams.items():
            padded = np.full(is_token.shape, self._padding[name], dtype=np.int64)
            padded[is_token] = stream[places]
            tensors[name] = torch.from_numpy(padded)
        return tensors

    def mean_length(self, rows: np.ndarray) -> float:
        return float(np.mean(self._offsets[rows + 1] - self._offsets[rows])) if len(rows) else 0.0


class Split:
    """One split: ``labels`` (int64 [N]), ``mean_length`` (tokens an example, 0.0 for images) and batches by index."""

    def __init__(self, labels: np.ndarray, inputs: ImageReader | TextReader, rows: np.ndarray) -> None:
        self.labels = labels[rows]
        self.mean_length = inputs.mean_length(rows)
        self._inputs = inputs
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """The examples at ``indices`` (int64 [B]), as a transformer takes them, with ``labels`` (int64 [B]).

        Images: ``pixel_values`` (float32 [B, C, H, W]). Text: ``input_ids``, ``attention_mask`` and, where the
        tokenizer makes them, ``token_type_ids`` (int64 [B, longest of the batch]).
        """
        tensors = self._inputs.batch(self._rows[indices])
        tensors["labels"] = torch.from_numpy(self.labels[indices])
        return tensors


@dataclass(frozen=True)
class FederatedData:
    """What a run reads: the splits, the group of each training example (int64 [N], by_column only), the pad token."""

    train: Split
    validation: Split | None
    test: Split | None
    groups: np.ndarray | None
    pad_token_id: int | None


def open_data(folder: Path) -> FederatedData:
    """Open a folder that :func:`prepare` returned; examples stay on the disk until they are read."""
    root = folder if (folder / META).exists() else folder.parent
    meta = json.loads((root / META).read_text(encoding="utf-8"))
    rows = {role: np.arange(size) for role, size in meta["num_examples"].items()}
    sources = {role: role for role in rows}
    if root != folder:
        rows["validation"] = np.load(folder / HELD_OUT)
        rows["train"] = np.delete(rows["train"], rows["validation"])
        sources["validation"] = "train"
    inputs = {role: _open_inputs(root, role, meta) for role in meta["num_examples"]}
    splits = {
        role: Split(_open(root / f"{source}_labels.npy"), inputs[source], rows[role])
        for role, source in sources.items()
    }
    groups = _open(root / "train_groups.npy")[rows["train"]] if meta["columns"]["group"] else None
    pad_token_id = meta["padding"].get("input_ids")
    return FederatedData(splits["train"], splits.get("validation"), splits.get("test"), groups, pad_token_id)


def _open_inputs(root: Path, role: str, meta: dict[str, Any]) -> ImageReader | TextReader:
    if meta["task"] == "image":
        return ImageReader(_open(root / f"{role}_pixels.npy"), meta["inputs"]["mean"], meta["inputs"]["std"])
    streams = {name: _open(root / f"{role}_{name}.npy") for name in meta["padding"]}
    return TextReader(streams, _open(root / f"{role}_offsets.npy"), meta["padding"])


def _open(path: Path) -> np.ndarray:
    """The array of a file, memory-mapped, as a plain array (indexing ``np.memmap`` itself is slower)."""
    mapped: np.ndarray = np.load(path, mmap_mode="r").view(np.ndarray)
    return mapped
