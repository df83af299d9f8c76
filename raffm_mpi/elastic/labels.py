"""The axis language: every axis of every parameter has a name, and everything else is derived from it.

A *label* is written as in einops: ``"(head[0] key[0]) residual"`` has two axes, the first made of two dimensions; ``.``
is a fixed axis, and a number is a fixed factor of one (the ``3`` of a fused ``(3 head key)``): neither is ever cut or
reordered. A *selection* maps dimensions to what is kept of them; a dimension that it leaves out is kept whole:

- a whole number ``n`` keeps the first n (``take`` then gives a view wherever torch can);
- a 1-D index tensor keeps those, in that order (a permutation is a selection of everything in another order);
- a 2-D index tensor of shape ``[outer, n]`` keeps n of an inner dimension for each index of the dimension left of it in
  the axis: an order of the key dimensions of each head.

Two dimensions have no axis, and whole numbers alone select of them: ``depth`` keeps the first layers, ``density`` so
many thousandths of each matrix's entries, the largest in magnitude (of the sub-model's own matrix); ``take`` sets the
others to zero.

>>> layout = Layout({"w": parse("(head key) residual")}, {"w": (6, 4)}, {"head": 2, "key": 3, "residual": 4})
>>> layout.shape("w", {"key": 1, "residual": 2})
(2, 2)
>>> layout.take({"w": torch.arange(24).reshape(6, 4)}, {"head": torch.tensor([1]), "residual": 1})["w"].flatten()
tensor([12, 16, 20])
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from raffm_mpi.errors import UserMistake

Axis: TypeAlias = tuple[str, ...]
Label: TypeAlias = tuple[Axis, ...]
Index: TypeAlias = int | Tensor
Selection: TypeAlias = Mapping[str, Index]
Tensors: TypeAlias = dict[str, Tensor]

L = TypeVar("L", bound="Layout")

FULL: Selection = {}
FIXED = "."
DEPTH, DENSITY = "depth", "density"  # the dimensions without an axis
DENSE = 1000  # the full size of DENSITY
_TOKEN = re.compile(r"\([^()]+\)|\S+")


def parse(expression: str) -> Label:
    """The label that an expression such as ``"(head[l] key[l]) residual ."`` writes; ``()`` stands for a fixed axis."""
    if expression.count("(") != expression.count(")"):
        raise UserMistake(f"label '{expression}': unbalanced parentheses")
    axes = [token.strip("()").split() for token in _TOKEN.findall(expression)]
    if any(len(set(factors)) < len(factors) for factors in axes):
        raise UserMistake(f"label '{expression}': a dimension stands twice in one axis")
    return tuple(() if factors == [FIXED] else tuple(factors) for factors in axes)


def write(label: Label) -> str:
    """The expression of a label: the inverse of :func:`parse`."""
    return " ".join(FIXED if not axis else f"({' '.join(axis)})" for axis in label)


def parse_dimension(dimension: str) -> tuple[str, str | None]:
    """A dimension's name in the table and what stands in its brackets, if any.

    >>> parse_dimension("ffn[3]"), parse_dimension("residual")
    (('ffn', '3'), ('residual', None))
    """
    name, bracket, index = dimension.partition("[")
    return name, index.removesuffix("]") if bracket else None


def count(index: Index) -> int:
    """How many entries of its dimension an index keeps."""
    return index if isinstance(index, int) else index.shape[-1]


@dataclass(frozen=True)
class Layout:
    """The labels, shapes and dimension sizes of one model's parameters.

    ``labels`` and ``shapes`` are by tensor name, ``sizes`` by dimension. ``layers`` has the number of the layer that a
    tensor belongs to, where there is one stack of them; ``parts`` the sizes of the dimensions without an axis.
    """

    labels: Mapping[str, Label]
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    layers: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    parts: Mapping[str, int] = field(default_factory=lambda: {DENSITY: DENSE}, kw_only=True)

    def check(self, selection: Selection) -> None:
        """Raise UserMistake for a dimension this model does not have or an index outside it."""
        for dimension, index in selection.items():
            size = self.all_sizes.get(dimension)
            if size is None:
                raise UserMistake(f"unknown dimension '{dimension}'; known: {', '.join(self.all_sizes)}")
            if dimension in self.parts and not isinstance(index, int):
                raise UserMistake(f"selection of '{dimension}': allowed is a whole number, got {index}")
            low, high = (index, index - 1) if isinstance(index, int) else (int(index.min()) + 1, int(index.max()))
            if low < 1 or high >= size:
                raise UserMistake(f"selection of '{dimension}': {index} is outside its size {size}")

    @property
    def all_sizes(self) -> dict[str, int]:
        """The size of every dimension, those without an axis last."""
        return {**self.sizes, **self.parts}

    def holds(self, name: str, selection: Selection) -> bool:
        """Whether the sub-model that a selection keeps has any of a tensor."""
        return name not in self.layers or self.layers[name] < self.size(DEPTH, selection)

    def shape(self, name: str, selection: Selection = FULL) -> tuple[int, ...]:
        """The shape of one tensor of the sub-model that a selection keeps."""
        return tuple(
            math.prod(self.size(factor, selection) for factor in axis) if axis else fixed
            for axis, fixed in zip(self.labels[name], self.shapes[name], strict=True)
        )

    def size(self, dimension: str, selection: Selection = FULL) -> int:
        """The size of a dimension in the sub-model that a selection keeps."""
        if dimension.isdigit():
            return int(dimension)
        index = selection.get(dimension)
        if index is not None:
            return count(index)
        return self.parts[dimension] if dimension in self.parts else self.sizes[dimension]

    def restrict(self: L, selection: Selection) -> L:
        """The layout of the sub-model that a selection keeps."""
        held = [name for name in self.labels if self.holds(name, selection)]
        return replace(
            self,
            labels={name: self.labels[name] for name in held},
            shapes={name: self.shape(name, selection) for name in held},
            sizes={dimension: self.size(dimension, selection) for dimension in self.sizes},
            parts={dimension: self.size(dimension, selection) for dimension in self.parts},
        )

    def part(self: L, names: Collection[str]) -> L:
        """The layout of some of the tensors, in this layout's order; every dimension keeps its size."""
        return replace(
            self,
            labels={name: label for name, label in self.labels.items() if name in names},
            shapes={name: shape for name, shape in self.shapes.items() if name in names},
        )

    def take(self, tensors: Mapping[str, Tensor], selection: Selection) -> Tensors:
        """The sub-model's tensors: views of ``tensors`` where every index of a tensor is a prefix, else copies.

        Also copies where the sub-model is less dense.
        """
        held = {name: self._take(t, name, selection) for name, t in tensors.items() if self.holds(name, selection)}
        density = self.size(DENSITY, selection)
        return held if density == DENSE else {name: t * is_kept(t, density) for name, t in held.items()}

    def put(self, target: Mapping[str, Tensor], selection: Selection, source: Mapping[str, Tensor]) -> None:
        """Write a sub-model's tensors into their places in ``target``."""
        for name, tensor in source.items():
            region, index = self._region(target[name], name, selection)
            region[index] = tensor.reshape(region.shape) if index is ... else tensor

    def put_add(self, target: Mapping[str, Tensor], selection: Selection, source: Mapping[str, Tensor]) -> None:
        """Add a sub-model's tensors to their places in ``target``: the transpose of :meth:`take`."""
        for name, tensor in source.items():
            region, index = self._region(target[name], name, selection)
            if index is ...:
                region.add_(tensor.reshape(region.shape))
            else:
                region[index] += tensor

    def region(self, tensor: Tensor, name: str, selection: Selection) -> Tensor | None:
        """The view of a tensor where a prefix selection lies, one axis a dimension; None for other selections."""
        return self._prefix(tensor, name, selection) if self._is_prefix(name, selection) else None

    def indicator(self, name: str, axis: int, selection: Selection) -> Tensor:
        """Which entries of one axis a selection keeps: bool, of the axis's length."""
        mask = torch.zeros(self.shapes[name][axis], dtype=torch.bool)
        mask[self._flat_index(self.labels[name][axis], selection)] = True
        return mask

    def _take(self, tensor: Tensor, name: str, selection: Selection) -> Tensor:
        if self._is_prefix(name, selection):
            return self._prefix(tensor, name, selection).reshape(self.shape(name, selection))
        for position, axis in enumerate(self.labels[name]):
            if not selection.keys().isdisjoint(axis):
                tensor = tensor.index_select(position, self._flat_index(axis, selection).to(tensor.device))
        return tensor

    def _region(
        self, tensor: Tensor, name: str, selection: Selection
    ) -> tuple[Tensor, tuple[Tensor, ...] | EllipsisType]:
        """Where a sub-model's tensor lies in the full one: a view and ``...``, or the tensor and an open mesh."""
        if self._is_prefix(name, selection):
            return self._prefix(tensor, name, selection), ...
        indices = [
            self._flat_index(axis, selection) if axis else torch.arange(length)
            for axis, length in zip(self.labels[name], self.shapes[name], strict=True)
        ]
        return tensor, tuple(
            index.to(tensor.device).reshape([-1 if i == position else 1 for i in range(len(indices))])
            for position, index in enumerate(indices)
        )

    def _is_prefix(self, name: str, selection: Selection) -> bool:
        return all(isinstance(selection.get(factor, 1), int) for axis in self.labels[name] for factor in axis)

    def _prefix(self, tensor: Tensor, name: str, selection: Selection) -> Tensor:
        """The view of a prefix selection, one axis a dimension."""
        label = self.labels[name]
        unflattened = [
            [self.size(factor) for factor in axis] or [length]
            for axis, length in zip(label, self.shapes[name], strict=True)
        ]
        view = tensor.view([size for sizes in unflattened for size in sizes])
        for position, factor in enumerate(factor for axis in label for factor in axis or (None,)):
            if factor is not None and factor in selection:
                view = view.narrow(position, 0, count(selection[factor]))
        return view

    def _flat_index(self, axis: Axis, selection: Selection) -> Tensor:
        """The kept positions along one axis, in order: int64."""
        flat = torch.zeros(1, dtype=torch.int64)
        outer = torch.zeros(1, dtype=torch.int64)  # the kept indices of the dimension to the left
        for factor in axis:
            size = self.size(factor)
            index = selection.get(factor, size)
            index = torch.arange(index) if isinstance(index, int) else index.cpu()
            if index.ndim == 2:
                rows = index[outer].repeat(len(flat) // len(outer), 1)
                flat, outer = (flat[:, None] * size + rows).flatten(), index[0]
            else:
                flat, outer = (flat[:, None] * size + index).flatten(), index
        return flat


def is_kept(tensor: Tensor, density: int) -> Tensor:
    """Which entries a sub-model of that density keeps of its tensor: bool; of vectors (biases, norms) all.

    The largest in magnitude; where a tensor has fewer that are not zero, all.
    """
    if tensor.ndim < 2 or density == DENSE:
        return torch.ones_like(tensor, dtype=torch.bool)
    magnitude = tensor.abs()
    num_dropped = tensor.numel() - num_kept(tensor.numel(), density)
    return magnitude >= torch.kthvalue(magnitude.flatten(), num_dropped + 1).values


def num_kept(num_entries: int, density: int) -> int:
    """How many entries of a matrix a density keeps."""
    return -(-num_entries * density // DENSE)


def union(layout: Layout, selections: Iterable[Selection]) -> Selection:
    """The envelope: for each dimension, what at least one of the selections keeps (1-D indices come out sorted).

    It is dense, as the entries that clients keep are not known before it is there.
    """
    selections = list(selections)
    envelope: dict[str, Index] = {}
    for dimension in set.intersection(*(set(s) for s in selections)) if selections else ():
        indices = [selection[dimension] for selection in selections]
        if all(isinstance(index, int) for index in indices):
            envelope[dimension] = max(count(index) for index in indices)
        else:
            kept = torch.zeros(layout.sizes[dimension], dtype=torch.bool)
            for index in indices:
                kept[slice(index) if isinstance(index, int) else index.flatten()] = True
            envelope[dimension] = kept.nonzero().flatten()
    return {
        dimension: envelope[dimension]
        for dimension, size in layout.all_sizes.items()
        if dimension in envelope and dimension != DENSITY and count(envelope[dimension]) < size
    }


def within(envelope: Selection, selection: Selection) -> Selection:
    """A selection of the full model as a selection of the envelope's model, which must hold it."""
    inner: dict[str, Index] = {}
    for dimension, index in selection.items():
        outer = envelope.get(dimension)
        if isinstance(outer, Tensor):
            inner[dimension] = torch.searchsorted(outer, torch.arange(index) if isinstance(index, int) else index)
        elif outer is None or not isinstance(index, int) or index < outer:
            inner[dimension] = index
    return inner


def coverage(
    layout: Layout, name: str, selections: Sequence[Selection], weights: Sequence[int], received: Tensor
) -> Tensor:
    """The summed weight of the selections that hold each entry of a tensor.

    ``received`` is the tensor that the clients have taken theirs from, which decides what less dense ones keep. Float64
    (exact up to 2^53), of a shape that broadcasts against the tensor: an axis that all keep whole has length 1.
    """
    holders = [(s, w) for s, w in zip(selections, weights, strict=True) if layout.holds(name, s)]
    groups = _grouped(layout, name, holders)
    sparse = [group for group in groups if received.ndim > 1 and layout.size(DENSITY, group[0]) < DENSE]
    dense = [group for group in groups if group not in sparse]
    held = _dense_coverage(layout, name, dense)
    if not sparse:
        return held
    held = held.expand(layout.shapes[name]).clone()
    for selection, weight in sparse:
        (own,) = layout.take({name: received}, {**selection, DENSITY: DENSE}).values()
        layout.put_add({name: held}, selection, {name: is_kept(own, layout.size(DENSITY, selection)).double() * weight})
    return held


def _grouped(layout: Layout, name: str, holders: Iterable[tuple[Selection, int]]) -> list[tuple[Selection, int]]:
    """Clients that hold the same of a tensor as one of their summed weight."""
    factors = [*(factor for axis in layout.labels[name] for factor in axis), DENSITY]
    groups: dict[tuple[int | None, ...], tuple[Selection, int]] = {}
    for selection, weight in holders:
        indices = [selection.get(factor) for factor in factors]
        key = tuple(id(index) if isinstance(index, Tensor) else index for index in indices)
        groups[key] = selection, weight + groups.get(key, (selection, 0))[1]
    return list(groups.values())


def _dense_coverage(layout: Layout, name: str, groups: Sequence[tuple[Selection, int]]) -> Tensor:
    label = layout.labels[name]
    letters = "abcdefgh"
    operands, equation = [torch.tensor([weight for _, weight in groups], dtype=torch.float64)], "z"
    shape = [1] * len(label)
    for position, axis in enumerate(label):
        if any(not selection.keys().isdisjoint(axis) for selection, _ in groups):
            operands.append(torch.stack([layout.indicator(name, position, s) for s, _ in groups]).double())
            equation += f",z{letters[position]}"
            shape[position] = layout.shapes[name][position]
    output = "".join(letters[position] for position in range(len(shape)) if f",z{letters[position]}" in equation)
    return torch.einsum(f"{equation}->{output}", *operands).reshape(shape)
