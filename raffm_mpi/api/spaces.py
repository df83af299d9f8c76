"""The official elastic spaces and architectures, read as choices of labelled dimensions.

An *elastic config* names the widths that sub-models may take, an *arc config* the widths of one sub-model::

    {"atten_out_space": [12, 24], "inter_hidden_space": [20, 40], "residual_hidden_space": [24]}
    {"layer_1": {"atten_out": 12, "inter_hidden": 40, "residual_hidden": 24}, "layer_2": …}

Both are plain JSON. ``atten_out`` is the width of a layer's queries and counts whole heads here; ``residual_hidden``
(``out_hidden`` in older versions) is shared by all layers that a residual stream runs through. An elastic config may
also give each layer a space of its own, under the layer's name. Layers are ``layer_1``, ``layer_2``, …; models of
several stacks put the stack's name before it: ``encoder_layer_1``, ``vision_layer_1``.
"""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from raffm_mpi.elastic.labels import Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake
from raffm_mpi.methods.space import Choice, Space

ArcConfig: TypeAlias = dict[str, dict[str, int]]

# The official word for a width -> ours for the elastic setting behind it.
SETTINGS = {"atten_out": "heads", "inter_hidden": "ffn", "residual_hidden": "residual"}
# What older versions call the residual width: on the way out of a layer, and on the way in.
_SYNONYMS = {"out_hidden": "residual_hidden", "pre_hidden": "residual_hidden"}
_SPACE = "_space"


@dataclass(frozen=True)
class Width:
    """One free width of a model: its official name, the layers that have it, and what it cuts."""

    key: str  # "atten_out"
    layers: tuple[str, ...]  # "layer_1", …: the layers that share it
    dimensions: tuple[str, ...]
    full: int  # in official units: an attention width is heads times head width
    unit: int  # official units of one index: the head width, or 1

    def size(self, width: Any, place: str) -> int:
        """The number of indices that an official width keeps; UserMistake naming ``place`` for one that is none."""
        try:
            size, rest = divmod(operator.index(width), self.unit)
        except TypeError:
            raise UserMistake(f"{place}: {width!r} is not a whole number") from None
        if rest or not 1 <= size <= self.full // self.unit:
            allowed = f"whole numbers from 1 to {self.full}"
            if self.unit > 1:
                allowed = f"multiples of {self.unit} (a whole head) up to {self.full}"
            raise UserMistake(f"{place}: {width} is not a width of this model; allowed are {allowed}")
        return size


def widths_of(layout: ModelLayout) -> list[Width]:
    """Every free width of a model that has an official name, in the order of the official names and layers."""
    layers = _layers(layout)
    found = []
    for key, setting in SETTINGS.items():
        for dimensions in layout.axes_of(setting) if setting in layout.family.elastic else ():
            first = layout.dimensions[dimensions[0]]
            own = [
                name
                for name, (stack, layer) in layers.items()
                if first.stack in ("", stack) and first.layer in (None, layer)
            ]
            unit = _head_width(layout, dimensions[0]) if setting == "heads" else 1
            found.append(Width(key, tuple(own), dimensions, layout.sizes[dimensions[0]] * unit, unit))
    return found


def default_config(layout: ModelLayout) -> dict[str, Any]:
    """The elastic config of a model without one: quarters of each FFN, whole heads from a quarter up, full residual."""
    each: dict[str, dict[str, list[int]]] = {}
    for width in widths_of(layout):
        size = width.full // width.unit
        sizes = {
            "atten_out": range(math.ceil(size / 4), size + 1),
            "inter_hidden": sorted({max(1, round(size * quarter / 4)) for quarter in (1, 2, 3, 4)}),
            "residual_hidden": [size],
        }[width.key]
        for layer in width.layers:
            each.setdefault(layer, {})[width.key + _SPACE] = [number * width.unit for number in sizes]
    spaces = [space.items() for space in each.values()]
    common = {key: list(value) for space in spaces for key, value in space}
    return common if all(common[key] == value for space in spaces for key, value in space) else dict(each)


def load_elastic_config(source: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """An elastic config from a dict or a JSON file; UserMistake for a file that is not JSON (pickles are not read)."""
    values: Any = source
    if isinstance(source, str | os.PathLike):
        try:
            values = json.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserMistake(f"elastic_config: '{source}' cannot be read: {error.strerror}") from None
        except ValueError:  # of JSON or of UTF-8
            raise UserMistake(f"elastic_config: '{source}' is not JSON, which it must be") from None
    if not isinstance(values, Mapping):
        raise UserMistake(f"elastic_config: expected a dict or the path of a JSON file, got {type(values).__name__}")
    return dict(values)


def read_space(config: Mapping[str, Any], layout: ModelLayout) -> Space:
    """The space that an elastic config describes; a width that it leaves out stays full.

    Raises UserMistake naming an unknown key, a width that the model does not have, or layers that must agree.
    """
    widths = widths_of(layout)
    layers = _layers(layout)
    each = config if config.keys() & set(layers) else dict.fromkeys(layers, config)
    _refuse_unknown("elastic_config", each, list(layers))
    known = {width.key for width in widths}
    spaces = {layer: _official(each[layer], f"elastic_config.{layer}", known, _SPACE) for layer in each}
    choices = []
    for width in widths:
        place = f"elastic_config: {width.key}{_SPACE}"
        listed = _agreed([spaces[n][width.key] for n in width.layers if width.key in spaces.get(n, {})], place)
        if listed is None:
            listed = [width.full]
        if isinstance(listed, str) or not isinstance(listed, Iterable) or not list(listed):
            raise UserMistake(f"{place}: {listed!r} is not a list of widths")
        choices.append(Choice(width.dimensions, tuple(sorted({width.size(number, place) for number in listed}))))
    return Space(tuple(choices), tuple(width.full // width.unit for width in widths))


def write_arc(selection: Selection, layout: ModelLayout) -> ArcConfig:
    """The arc config of a sub-model: every width of every layer, as plain integers."""
    arc: ArcConfig = {layer: {} for layer in _layers(layout)}
    for width in widths_of(layout):
        for layer in width.layers:
            arc[layer][width.key] = layout.size(width.dimensions[0], selection) * width.unit
    return arc


def read_arc(arc: Mapping[str, Mapping[str, Any]], layout: ModelLayout) -> Selection:
    """The selection that an arc config describes; a layer or width that it leaves out stays full.

    Raises UserMistake naming an unknown layer or key, a width the model does not have, or layers that must agree.
    """
    if not isinstance(arc, Mapping):
        raise UserMistake(f"arc_config: expected a dict of layers, got {type(arc).__name__}")
    widths = widths_of(layout)
    _refuse_unknown("arc_config", arc, list(_layers(layout)))
    known = {width.key for width in widths}
    given = {layer: _official(arc[layer], f"arc_config.{layer}", known, "") for layer in arc}
    selection = {}
    for width in widths:
        place = f"arc_config: {width.key} of {', '.join(width.layers)}"
        wanted = _agreed([given[n][width.key] for n in width.layers if width.key in given.get(n, {})], place)
        if wanted is not None and (size := width.size(wanted, place)) * width.unit < width.full:
            selection.update(dict.fromkeys(width.dimensions, size))
    return selection


def _layers(layout: ModelLayout) -> dict[str, tuple[str, int]]:
    """The layers that have a dimension of their own, with stack and number of each, counted from 0.

    They are named ``layer_1``, …, and ``encoder_layer_1``, … where the family has several stacks.
    """
    found = [(own.stack, own.layer) for own in layout.dimensions.values() if own.layer is not None]
    return {f"{stack}_layer_{n + 1}" if stack else f"layer_{n + 1}": (stack, n) for stack, n in dict.fromkeys(found)}


def _head_width(layout: ModelLayout, head: str) -> int:
    """Columns of the queries that one head (with the queries that share its keys) has."""
    axis = next(product.axis for product in layout.products if head in product.axis)
    return math.prod(layout.size(factor) for factor in axis if factor != head)


def _official(values: Any, place: str, known: set[str], suffix: str) -> dict[str, Any]:
    """One layer's values by official name, with its synonyms resolved."""
    if not isinstance(values, Mapping):
        raise UserMistake(f"{place}: expected a dict such as {{'inter_hidden{suffix}': …}}, got {values!r}")
    synonyms = {old + suffix: new for old, new in _SYNONYMS.items()}
    names = {key + suffix: key for key in SETTINGS if key in known}
    _refuse_unknown(place, values, [*names, *(old for old, new in synonyms.items() if new in known)])
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = names.get(key) or synonyms[key]
        found[name] = _agreed([value, *([found[name]] if name in found else [])], f"{place}: {name}")
    return found


def _refuse_unknown(place: str, values: Mapping[str, Any], known: list[str]) -> None:
    unknown = [key for key in values if key not in known]
    if unknown:
        raise UserMistake(f"{place}: unknown key '{unknown[0]}'; known: {', '.join(known)}")


def _agreed(values: list[Any], place: str) -> Any:
    """The one value of all; None of none; UserMistake if they differ."""
    for value in values:
        if value != values[0]:
            raise UserMistake(f"{place} must be the same wherever it is given, but is {values[0]!r} and {value!r}")
    return values[0] if values else None
