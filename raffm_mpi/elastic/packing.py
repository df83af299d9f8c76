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


def allocate(layout: Layout, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Packed:
    """A zeroed buffer with a view for each tensor of the layout, in the layout's order."""
    lengths = {name: math.prod(shape) for name, shape in layout.shapes.items()}
    starts, end = {}, 0
    for name, length in lengths.items():
        starts[name] = end
        end += -(-length // _ALIGNMENT) * _ALIGNMENT
    buffer = torch.zeros(end, dtype=dtype, device=device)
    return Packed(
        buffer,
        {name: buffer[start : start + lengths[name]].view(layout.shapes[name]) for name, start in starts.items()},
    )


def pack(layout: Layout, tensors: Mapping[str, Tensor]) -> Packed:
    """Copy tensors into one float32 buffer."""
    packed = allocate(layout)
    for name, tensor in tensors.items():
        packed.tensors[name].copy_(tensor)
    return packed
