"""Exact aggregation: sums on a fixed grid of integers, so that neither order nor the number of ranks shows in the bits.

For entry j of the model, over the clients k that hold it (m_kj = 1), with n_k examples each:

    W_j += sum_k n_k m_kj dW_kj / sum_k n_k m_kj

Each client's n_k dW_k is rounded once to a multiple of 2^-fraction_bits and held as int64. Integer addition is
associative: whichever rank trained the client and in whatever order, the sum has the same bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raffm_mpi.aggregation.server_optimizer import AddMean, MeanUpdate, ServerOptimizer
from raffm_mpi.elastic.labels import Layout, Selection, coverage, within
from raffm_mpi.elastic.packing import Packed, allocate, moved

# The largest change of one entry in one round that is taken for training and not for a fault.
LARGEST_UPDATE_BITS = 6
LARGEST_UPDATE = float(2**LARGEST_UPDATE_BITS)
_BLOCK_ENTRIES = 1 << 15


def fraction_bits(total_weight: int) -> int:
    """The fixed point's fraction bits for a cohort of that many examples: no sum of legal updates leaves 62 bits."""
    return 62 - LARGEST_UPDATE_BITS - total_weight.bit_length()


def flaw(update: Mapping[str, Tensor]) -> str | None:
    """Why an update cannot be aggregated, naming the tensor; None if it can."""
    for name, tensor in update.items():
        low, high = (float(value) for value in torch.aminmax(tensor))
        largest = max(-low, high)
        if not (low >= -LARGEST_UPDATE and high <= LARGEST_UPDATE):  # also true of NaN
            if largest < float("inf"):
                return f"the update of '{name}' reaches {largest:.3g}; allowed is at most {LARGEST_UPDATE:g}"
            return f"the update of '{name}' is not finite"
    return None


@dataclass(frozen=True)
class ExactSum:
    """The running sum of weighted updates over an envelope: int64, in units of 2^-fraction_bits."""

    layout: Layout  # the envelope's
    packed: Packed
    fraction_bits: int

    @classmethod
    def zeros(cls, layout: Layout, total_weight: int, device: torch.device | str = "cpu") -> ExactSum:
        """An empty sum for a cohort with ``total_weight`` examples in all."""
        return cls(layout, allocate(layout, torch.int64, device), fraction_bits(total_weight))

    def on_host(self) -> ExactSum:
        """The same sum in the memory of the host, pinned if it comes from a GPU."""
        return replace(self, packed=moved(self.layout, self.packed, "cpu", pinned=True))

    def part(self, names: Collection[str]) -> ExactSum:
        """The sum of some of the tensors, in the same memory."""
        layout = self.layout.part(names)
        tensors = {name: self.packed.tensors[name] for name in layout.labels}
        return replace(self, layout=layout, packed=Packed(self.packed.buffer, tensors))

    def add(self, selection: Selection, update: Mapping[str, Tensor], weight: int) -> None:
        """Add ``weight`` times a client's update; ``selection`` is within the envelope, ``flaw(update)`` is None."""
        scale = weight * 2.0**self.fraction_bits
        for name, tensor in update.items():
            region = self.layout.region(self.packed.tensors[name], name, selection)
            if region is None:
                self.layout.put_add(self.packed.tensors, selection, {name: _to_grid(tensor, scale)})
                continue
            region = torch.atleast_1d(region)  # CLIP's temperature is a scalar
            values = tensor.view(region.shape)
            for rows in _blocks(values):
                region[rows].add_(_to_grid(values[rows], scale))


def apply_update(
    tensors: Mapping[str, Tensor],
    layout: Layout,
    total: ExactSum,
    envelope: Selection,
    selections: Sequence[Selection],
    weights: Sequence[int],
    optimizer: ServerOptimizer | None = None,
) -> None:
    """The server's update, in place: step on the mean over the clients that hold an entry; the others keep their bits.

    ``selections`` and ``weights`` are those of the clients whose updates are in ``total``. Without an optimizer the
    mean is added.
    """
    optimizer = optimizer or AddMean(layout)
    inner = [within(envelope, selection) for selection in selections]
    for name, sums in total.packed.tensors.items():
        places = [tensors, *optimizer.slots]
        taken = [layout.take({name: place[name]}, envelope)[name] for place in places]
        taken = [tensor.clone(memory_format=torch.contiguous_format) for tensor in taken]
        held = coverage(total.layout, name, inner, weights, taken[0])
        means = _means(torch.atleast_1d(sums), torch.atleast_1d(held), 2.0**total.fraction_bits)
        optimizer.step(name, [torch.atleast_1d(tensor) for tensor in taken], means)
        for place, tensor in zip(places, taken, strict=True):
            layout.put(place, envelope, {name: tensor})


def _means(sums: Tensor, held: Tensor, unit: float) -> Iterator[MeanUpdate]:
    """The mean update of a tensor over its holders, a slice of its first axis at a time."""
    # Where nobody holds an entry its sum is 0, and 0 / 1 is as good as 0 / 0.
    divisor = held.clamp(min=1).mul_(unit)
    for rows in _blocks(sums):
        here = rows if len(held) > 1 else slice(None)
        yield MeanUpdate(rows, sums[rows] / divisor[here], held[here])


def mean_where_held(
    total: ExactSum, name: str, selections: Sequence[Selection], weights: Sequence[int], otherwise: Tensor
) -> Tensor:
    """The mean of the values in a total, float64; ``otherwise`` where nobody holds an entry.

    ``selections`` are within the envelope, ``weights`` those that the values were added by.
    """
    held = coverage(total.layout, name, selections, weights, otherwise)
    mean = total.packed.tensors[name].double() / (held.clamp(min=1) * 2.0**total.fraction_bits)
    return torch.where(held > 0, mean, otherwise.double())


def _to_grid(values: Tensor, scale: float) -> Tensor:
    """Scaled values rounded to whole numbers, half to even: int64."""
    return values.double().mul_(scale).round_().long()


def _blocks(tensor: Tensor) -> Iterator[slice]:
    """Slices of the first axis that are small enough to be worked on in cache."""
    length = len(tensor)
    step = max(1, _BLOCK_ENTRIES * length // max(1, tensor.numel()))
    return (slice(start, start + step) for start in range(0, length, step))


def apply_official(
    tensors: Mapping[str, Tensor],
    layout: Layout,
    total: ExactSum,
    envelope: Selection,
    selections: Sequence[Selection],
) -> None:
    """The official RaFFM code's update, for comparison: zero-pad every client's weights and divide by their number.

    An entry that m of K clients hold shrinks to m/K of its value each round; ``total`` is of updates of weight 1.
    """
    added = allocate(layout, torch.float64).tensors
    scale = 2.0**-total.fraction_bits
    layout.put(added, envelope, {name: sums * scale for name, sums in total.packed.tensors.items()})
    for name, tensor in tensors.items():
        held = coverage(layout, name, selections, [1] * len(selections), tensor)
        tensor.copy_((tensor * held + added[name]) / len(selections))
