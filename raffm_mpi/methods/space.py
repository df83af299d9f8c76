"""Elastic spaces: the sizes that each dimension may take, and sub-models drawn or solved from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raffm_mpi.config import SpaceSettings
from raffm_mpi.elastic.labels import DEPTH, Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake


@dataclass(frozen=True)
class Choice:
    """One free choice of width: dimensions that share it, and its sizes in ascending order."""

    dimensions: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """The choices that make up a sub-model: one a layer for per-layer dimensions, one in all for shared ones."""

    choices: tuple[Choice, ...]
    full: tuple[int, ...]  # the full model's size of each choice

    def selection(self, levels: tuple[int, ...] | list[int]) -> Selection:
        """The sub-model that takes size number ``levels[i]`` of choice i."""
        return {
            dimension: choice.sizes[level]
            for choice, level, full in zip(self.choices, levels, self.full, strict=True)
            if choice.sizes[level] < full
            for dimension in choice.dimensions
        }

    def smallest(self) -> Selection:
        """The sub-model with every choice at its smallest."""
        return self.selection([0] * len(self.choices))

    def random(self, generator: np.random.Generator) -> Selection:
        """A sub-model with every choice drawn on its own, uniformly."""
        return self.selection([int(generator.integers(len(choice.sizes))) for choice in self.choices])

    @cached_property
    def path(self) -> list[Selection]:
        """Nested sub-models from the smallest to the largest, growing one choice at a time, all choices in step."""
        steps = sorted(
            ((level + 1) / (len(choice.sizes) - 1), number)
            for number, choice in enumerate(self.choices)
            for level in range(len(choice.sizes) - 1)
        )
        levels = [0] * len(self.choices)
        path = [self.selection(levels)]
        for _, number in steps:
            levels[number] += 1
            path.append(self.selection(levels))
        return path


def resolve(settings: SpaceSettings, layout: ModelLayout) -> Space:
    """The space that the settings describe for a model.

    Raises UserMistake naming the setting, the size and what is allowed.
    """
    choices, full = [], []
    for setting, sizes in settings:
        if not sizes and setting not in layout.family.elastic:
            continue
        for dimensions in axes_of(layout, setting, "method.space"):
            size = layout.all_sizes[dimensions[0]]
            if sizes is None:  # heads, left out: every number of them from a quarter up
                sizes = list(range(-(-size // 4), size + 1))
            if sizes:
                choices.append(Choice(dimensions, _absolute(setting, sizes, dimensions[0], size)))
                full.append(size)
    return Space(tuple(choices), tuple(full))


def axes_of(layout: ModelLayout, setting: str, place: str) -> list[tuple[str, ...]]:
    """As :meth:`ModelLayout.axes_of`; raises UserMistake, naming the settings' place, for what the family has not."""
    known = [*layout.family.elastic, *([DEPTH] if DEPTH in layout.parts else [])]
    if setting not in known:
        raise UserMistake(f"{place}.{setting}: family '{layout.family.name}' has none; known: {', '.join(known)}")
    return layout.axes_of(setting)


def _absolute(setting: str, sizes: list[int | float], dimension: str, full: int) -> tuple[int, ...]:
    absolute = set()
    for size in sizes:
        place = f"method.space.{setting}: {size}"
        if isinstance(size, int):
            if size > full:
                raise UserMistake(f"{place} is wider than the model, whose {dimension} has size {full}")
            absolute.add(size)
        else:
            if abs(size * full - round(size * full)) > 1e-9:
                raise UserMistake(f"{place} of {dimension} (size {full}) is {size * full:g}, not a whole number")
            absolute.add(round(size * full))
    return tuple(sorted(absolute))
