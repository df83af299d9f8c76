"""Sequences of different lengths on disk: each stream concatenated, with the offsets that all streams share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from raffm_mpi.data.formats import ArrayFile, open_array


class RaggedFile:
    """Writes ``PREFIX_STREAM.npy`` (int32 [total, *shape]) of every stream and ``PREFIX_offsets.npy`` (int64 [N + 1]).

    ``streams`` are the shapes of one entry, by name.
    """

    def __init__(self, folder: Path, prefix: str, streams: Mapping[str, tuple[int, ...]]) -> None:
        self._offsets_path = folder / f"{prefix}_offsets.npy"
        self._lengths = [np.zeros(1, dtype=np.int64)]
        self._stack = ExitStack()
        self._files = {
            name: self._stack.enter_context(ArrayFile(folder / f"{prefix}_{name}.npy", np.int32, shape))
            for name, shape in streams.items()
        }

    def append(self, streams: Mapping[str, Sequence[Sequence[int] | np.ndarray]]) -> None:
        """Some sequences more; of each stream as many, of the same lengths."""
        for name, file in self._files.items():
            if len(streams[name]):
                file.append(np.concatenate(streams[name]))
        self._lengths.append(np.array([len(sequence) for sequence in streams[next(iter(self._files))]], dtype=np.int64))

    def __enter__(self) -> RaggedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        np.save(self._offsets_path, np.cumsum(np.concatenate(self._lengths)))


class Ragged:
    """Reads what :class:`RaggedFile` wrote; ``padding`` has the streams to read and what fills them up on the right."""

    def __init__(self, folder: Path, prefix: str, padding: Mapping[str, int]) -> None:
        self._offsets = open_array(folder / f"{prefix}_offsets.npy")
        self._streams = {name: open_array(folder / f"{prefix}_{name}.npy") for name in padding}
        self._padding = padding

    def padded(self, rows: np.ndarray) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What is no padding (bool [B, L], L the longest of the rows) and each stream (int64 [B, L, *shape])."""
        starts = self._offsets[rows]
        lengths = self._offsets[rows + 1] - starts
        columns = np.arange(lengths.max(initial=0))
        is_entry = columns < lengths[:, None]
        places = (starts[:, None] + columns)[is_entry]
        tensors = {}
        for name, stream in self._streams.items():
            padded = np.full((*is_entry.shape, *stream.shape[1:]), self._padding[name], dtype=np.int64)
            padded[is_entry] = stream[places]
            tensors[name] = torch.from_numpy(padded)
        return torch.from_numpy(is_entry), tensors

    def mean_length(self, rows: np.ndarray) -> float:
        """Mean length of the sequences of some rows, 0.0 of none."""
        return float(np.mean(self._offsets[rows + 1] - self._offsets[rows])) if len(rows) else 0.0
