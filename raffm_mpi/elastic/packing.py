"""One contiguous buffer for all tensors of a layout: what travels is a single piece of memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raffm_mpi.elastic.labels import Layout, Tensors

_ALIGNMENT = 16  # entries: each tensor starts on a 64-byte boundary in float32, so kernels see the same alignment


@dataclass(frozen=True)
class Packed:
    """``buffer`` (1-D) and the tensors, which are views of it; the gaps between them are zero."""

    buffer: Tensor
    tensors: Tensors


def allocate(
    layout: Layout, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", *, pinned: bool = False
) -> Packed:
    """A zeroed buffer with a view for each tensor of the layout, in the layout's order.

    ``pinned`` is memory of the host that a GPU reads and writes by itself.
    """
    buffer = torch.zeros(num_entries(layout), dtype=dtype, device=device, pin_memory=pinned)
    return Packed(buffer, views(layout, buffer))


def views(layout: Layout, buffer: Tensor) -> Tensors:
    """The tensors in a buffer of that layout."""
    tensors, start = {}, 0
    for name, shape in layout.shapes.items():
        tensors[name] = buffer[start : start + math.prod(shape)].view(shape)
        start += _room(shape)
    return tensors


def moved(layout: Layout, packed: Packed, device: torch.device | str, *, pinned: bool = False) -> Packed:
    """The same on a device, where it goes in one piece; itself if it is there."""
    if packed.buffer.device == torch.device(device):
        return packed
    other = allocate(layout, packed.buffer.dtype, device, pinned=pinned)
    other.buffer.copy_(packed.buffer)
    return other


def num_entries(layout: Layout) -> int:
    """Entries of the buffer that :func:`allocate` makes, the gaps counted."""
    return sum(_room(shape) for shape in layout.shapes.values())


def _room(shape: tuple[int, ...]) -> int:
    """Entries that a tensor takes up to where the next one starts."""
    return -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT


def pack(layout: Layout, tensors: Mapping[str, Tensor]) -> Packed:
    """Copy tensors into one float32 buffer."""
    packed = allocate(layout)
    for name, tensor in tensors.items():
        packed.tensors[name].copy_(tensor)
    return packed
