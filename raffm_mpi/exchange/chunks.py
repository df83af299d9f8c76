"""A transfer in chunks: what stays in cache, and counts that no model's size brings near MPI's limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:  # a rank imports torch when it knows its number of threads
    from torch import Tensor

Buffer: TypeAlias = "np.ndarray | Tensor"  # contiguous; a tensor's memory is a GPU's only where MPI takes that

CHUNK_BYTES = 4 << 20  # of one collective: the count of an MPI call is far below 2^30 bytes
CHUNKS_UNDER_WAY = 4


def chunks(buffer: Buffer) -> list[Buffer]:
    """Views of a contiguous buffer of any shape and dtype, flat, of CHUNK_BYTES each; the last may be smaller."""
    if not isinstance(buffer, np.ndarray) and not buffer.is_cuda:
        buffer = buffer.numpy()
    flat = buffer.reshape(-1)
    assert not isinstance(buffer, np.ndarray) or np.shares_memory(flat, buffer) or not buffer.size
    step = CHUNK_BYTES // flat.itemsize
    return [flat[start : start + step] for start in range(0, len(flat), step)]
