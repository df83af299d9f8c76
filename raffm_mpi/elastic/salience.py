"""Salience: which indices of a dimension matter most, and the permutation that moves them to the front.

The salience of an index is the mean magnitude of its entries, summed over the matrices that it runs through (RaFFM's
mean L1 norm, Yu et al., 2023, taken over every matrix that shares the dimension: permuting one of them alone would
change the function).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.labels import Layout, Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake


def salience(tensors: Mapping[str, Tensor], layout: Layout, dimensions: Collection[str]) -> dict[str, Tensor]:
    """The salience of each index of the given dimensions: float64.

    A dimension that always stands right of the same other one in an axis, such as the key dimensions of a head, gets
    one row for each index of that other: shape ``[outer, size]``; else the shape is ``[size]``.
    """
    outer = _outer_dimensions(layout)
    scores: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or not any(f in dimensions for axis in layout.labels[name] for f in axis):
            continue
        magnitude = tensor.abs()
        for position, axis in enumerate(layout.labels[name]):
            wanted = [factor for factor in axis if factor in dimensions]
            if wanted:
                others = [i for i in range(tensor.ndim) if i != position]
                along = magnitude.sum(dim=others, dtype=torch.float64) / (tensor.numel() / tensor.shape[position])
                along = along.reshape([layout.size(factor) for factor in axis])
                for factor in wanted:
                    left = outer[factor]
                    kept = [factor] if left is None else [left, factor]
                    part = _mean_over_others(along, axis, kept)
                    scores[factor] = part if factor not in scores else scores[factor] + part
    return scores


def order(tensors: Mapping[str, Tensor], layout: Layout, dimensions: Collection[str]) -> Selection:
    """The permutation that puts the most salient indices of the given dimensions first (ties keep their order)."""
    scores = salience(tensors, layout, dimensions)
    return {d: torch.argsort(score, dim=-1, descending=True, stable=True) for d, score in scores.items()}


def paper_dimensions(layout: ModelLayout, setting: str) -> list[str]:
    """The dimensions that the paper's rule orders: the rows of queries and keys within each head, and nothing else.

    Raises UserMistake, naming the setting, for a family in which they cannot be ordered by themselves.
    """
    dimensions = layout.of_kind(Kind.KEY)
    if not dimensions:
        why = layout.family.lacks.get(Kind.KEY, "its table has no such dimension")
        raise UserMistake(
            f"{setting}: 'paper' orders the queries and keys of each head, which cannot be done in family "
            f"'{layout.family.name}': {why}"
        )
    return dimensions


def _outer_dimensions(layout: Layout) -> dict[str, str | None]:
    """For each dimension, the one left of it in every axis that holds it, if there is such a one."""
    outer: dict[str, str | None] = {}
    for label in layout.labels.values():
        for axis in label:
            for left, factor in zip((None, *axis), axis, strict=False):
                outer[factor] = left if outer.get(factor, left) == left else None
    return outer


def _mean_over_others(along: Tensor, axis: tuple[str, ...], kept: list[str]) -> Tensor:
    others = [position for position, factor in enumerate(axis) if factor not in kept]
    if not others:
        return along
    return along.sum(dim=others) / math.prod(along.shape[position] for position in others)
