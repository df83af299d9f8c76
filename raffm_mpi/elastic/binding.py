"""How a family's table is matched to a model: labels from rows, sizes from shapes and the model's config."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from raffm_mpi.elastic.kinds import Dimension, check_kinds, classify, has_ranks
from raffm_mpi.elastic.labels import DENSE, DENSITY, DEPTH, FIXED, Axis, Label, parse, parse_dimension
from raffm_mpi.elastic.table import Family, ModelLayout, Product
from raffm_mpi.errors import UserMistake

_MATRICES = (nn.Linear, nn.Conv2d, Conv1D)


def bind(family: Family, model: nn.Module) -> ModelLayout:
    """Match a family's table to a model.

    Raises UserMistake naming what was looked for and what was found when a row matches nothing, a parameter has no row,
    a shape contradicts its label, or a dimension has no kind or another one than its rows say.
    """
    slots = _slots(model)
    modules = dict(model.named_modules())
    prefix = _base_prefix(family, model)
    # Every name of a parameter, tied ones included, to the one that named_parameters() gives it.
    canonical = {prefix + f"{path}.{at}".lstrip("."): name for name, places in slots.items() for path, at in places}
    transposed = {prefix + path for path, module in modules.items() if isinstance(module, Conv1D)}
    labels, where, unmatched = _match(family, canonical, transposed)
    matmuls = [
        (name, prefix + f"{path}.weight")
        for name, places in slots.items()
        for path, attribute in places
        if attribute == "weight" and isinstance(modules[path], _MATRICES)
    ]
    needed = [prefix + name for name in slots] + [slot for _, slot in matmuls]  # a tied weight's matrices, too
    _check_complete(family, model, [name for name in needed if name not in where], unmatched)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    labels = {name: labels[name] for name in shapes}
    named = dict.fromkeys(f for label in labels.values() for axis in label for f in axis if not _is_fixed(f))
    dimensions = classify(family.name, named, family.kinds, family.stacks)
    labels, sizes = _solve(family, model, labels, shapes)
    transposed = {name for name in labels if prefix + name.removesuffix(".weight") in transposed}
    if not has_ranks(dimensions):  # the rows of factors derive from a table that was checked
        check_kinds(family.name, labels, dimensions, {name for name, _ in matmuls}, transposed)
    layer_list, layers = _find_layers(labels)
    return ModelLayout(
        labels=labels,
        shapes=shapes,
        sizes=sizes,
        layers=layers,
        parts={**({DEPTH: 1 + max(layers.values())} if layers else {}), DENSITY: DENSE},
        layer_list=layer_list,
        family=family,
        dimensions=dimensions,
        slots=slots,
        numbers=_bind_numbers(family, modules, prefix),
        places={canonical[name]: place for name, place in reversed(where.items())},
        matmuls=tuple((name, where[slot]) for name, slot in matmuls),
        transposed=frozenset(transposed),
        products=_bind_products(family, labels, dimensions),
        lengths=family.lengths(model.config),
    )


def _base_prefix(family: Family, model: nn.Module) -> str:
    """What a bare base model's parameter names lack: ``"vit."`` for ViTModel, nothing for a model with a head."""
    prefix = f"{model.base_model_prefix}."
    is_bare = getattr(model, "base_model", None) is model
    return prefix if is_bare and any(row.lstrip("?").startswith(prefix) for row in family.rows) else ""


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(re.escape("[l]"), r"(?P<l>\d+)"))


def _match(
    family: Family, names: Mapping[str, str], transposed: set[str]
) -> tuple[dict[str, Label], dict[str, str], list[str]]:
    """The label of each parameter, the place of each of its names, and the rows that match nothing but must."""
    labels: dict[str, Label] = {}
    where: dict[str, str] = {}
    unmatched = []
    for patterns, expression in family.rows.items():
        text, _, place = expression.partition("@")
        found = list(_match_row(patterns.lstrip("?"), parse(text), place.strip() or "tokens", names, transposed))
        if not found and not patterns.startswith("?"):
            unmatched.append(patterns)
        for name, label, at in found:
            where.setdefault(name, at)
            if labels.setdefault(names[name], label) != label:
                raise UserMistake(f"family '{family.name}': '{name}' is tied to a parameter of another label")
    return labels, where, unmatched


def _match_row(
    patterns: str, label: Label, place: str, names: Mapping[str, str], transposed: set[str]
) -> Iterator[tuple[str, Label, str]]:
    """The parameters that a row names, each with its label and place."""
    for pattern in patterns.split(" | "):
        for suffix in ("", ".weight", ".bias"):
            regex = _regex(pattern + suffix)
            for name in names:
                if match := regex.fullmatch(name):
                    outputs = label[-1:] if name.removesuffix(".bias") in transposed else label[:1]
                    layer = match.groupdict().get("l")
                    own = outputs if suffix == ".bias" else label
                    bound = tuple(tuple(_at_layer(factor, layer) for factor in axis) for axis in own)
                    yield name, bound, _at_layer(place, layer)


def _at_layer(text: str, layer: int | str | None) -> str:
    """A dimension or place of a table in one layer: ``ffn[3]`` of ``ffn[l]``."""
    return text.replace("[l]", f"[{layer}]")


def _check_complete(family: Family, model: nn.Module, unlabelled: list[str], unmatched: list[str]) -> None:
    if not unmatched and not unlabelled:
        return
    found = dict.fromkeys(re.sub(r"\b\d+\b", "[l]", name) for name, _ in model.named_parameters())
    problems = []
    if unmatched:
        problems.append(f"looked for {', '.join(unmatched)}")
    if unlabelled:
        problems.append(
            f"no row for {', '.join(dict.fromkeys(re.sub(r'[.][0-9]+[.]', '.[l].', n) for n in unlabelled))}"
        )
    raise UserMistake(
        f"family '{family.name}' does not fit {type(model).__name__}: {'; '.join(problems)}; found {', '.join(found)}"
    )


def _solve(
    family: Family, model: nn.Module, labels: Mapping[str, Label], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Label], dict[str, int]]:
    """The labels with fixed factors as numbers, and every dimension's size, from shapes and the model's config."""
    axes = [
        (axis, length, name)
        for name, label in labels.items()
        for axis, length in zip(label, _checked_shape(name, label, shapes[name]), strict=True)
        if axis
    ]
    dimensions = list(dict.fromkeys(f for axis, _, _ in axes for f in axis if not _is_fixed(f)))
    named = {dimension: parse_dimension(dimension)[0] for dimension in dimensions}
    sizes = {d: _from_config(model.config, family.counts[name]) for d, name in named.items() if name in family.counts}

    def known(axis: Axis) -> int:
        return math.prod(int(f) if f.isdigit() else sizes.get(f, 1) for f in axis if f != FIXED)

    def missing(axis: Axis) -> list[str]:
        return [factor for factor in axis if not factor.isdigit() and factor not in sizes]

    while len(sizes) < len(dimensions):
        solvable = [(axis, length) for axis, length, _ in axes if len(missing(axis)) == 1 and FIXED not in axis]
        assert solvable, f"family '{family.name}': sizes of {set(dimensions) - sizes.keys()} cannot be solved"
        for axis, length in solvable:
            for factor in missing(axis):
                sizes[factor] = length // max(known(axis), 1)
    for axis, length, name in axes:
        if not known(axis) or length % known(axis) or (FIXED not in axis and length != known(axis)):
            solved = ", ".join(f"{factor} = {sizes.get(factor, factor)}" for factor in axis)
            raise UserMistake(
                f"family '{family.name}': '{name}' has length {length} on axis ({' '.join(axis)}); {solved}"
            )
    numbered = {
        name: tuple(
            tuple(str(length // known(axis)) if factor == FIXED else factor for factor in axis)
            for axis, length in zip(label, shapes[name], strict=True)
        )
        for name, label in labels.items()
    }
    return numbered, {dimension: sizes[dimension] for dimension in dimensions}


def _from_config(config: Any, names: str) -> int:
    """The first of the (dotted) names ``a | b`` that a config has."""
    for name in names.split(" | "):
        try:
            return int(attrgetter(name)(config))
        except AttributeError:
            continue
    raise UserMistake(f"the model's config has no {names.replace(' | ', ' or ')}")


def _checked_shape(name: str, label: Label, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(label) != len(shape):
        raise UserMistake(f"'{name}' has {len(shape)} axes, its label has {len(label)}: {label}")
    return shape


def _slots(model: nn.Module) -> dict[str, tuple[tuple[str, str], ...]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    slots: dict[str, list[tuple[str, str]]] = {name: [] for name in names.values()}
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            slots[names[id(parameter)]].append((path, attribute))
    return {name: tuple(places) for name, places in slots.items()}


def _bind_numbers(
    family: Family, modules: Mapping[str, nn.Module], prefix: str
) -> dict[tuple[str, str], tuple[str, ...]]:
    numbers = {}
    for patterns, attributes in family.numbers.items():
        regexes = [_regex(pattern) for pattern in patterns.split(" | ")]
        for path, module in modules.items():
            match = next(filter(None, (regex.fullmatch(prefix + path) for regex in regexes)), None)
            if match is None:
                continue
            for attribute, text in attributes.items():
                name = attribute.lstrip("?")
                if attribute == name or hasattr(module, name):
                    assert hasattr(module, name), f"family '{family.name}': {path} has no '{name}'"
                    layer = match.groupdict().get("l")
                    numbers[path, name] = tuple(_at_layer(factor, layer) for factor in text.split())
    if not numbers:
        raise UserMistake(f"family '{family.name}': found no module named {' or '.join(family.numbers)}")
    return numbers


def _is_fixed(factor: str) -> bool:
    return factor == FIXED or factor.isdigit()


def _find_layers(labels: Mapping[str, Label]) -> tuple[str, dict[str, int]]:
    """The list of layers and the layer of each parameter in it; nothing for a model with several lists."""
    found = {name: match for name in labels if (match := re.match(r"(.+?)\.(\d+)\.", name))}
    lists = {match[1] for match in found.values()}
    if len(lists) != 1:
        return "", {}
    return lists.pop(), {name: int(match[2]) for name, match in found.items()}


def _bind_products(
    family: Family, labels: Mapping[str, Label], dimensions: Mapping[str, Dimension]
) -> tuple[Product, ...]:
    """The products of every layer: those whose dimensions stand together on an axis of some parameter."""
    by_pattern: dict[Axis, list[tuple[Axis, int | None]]] = {}
    for axis in dict.fromkeys(axis for label in labels.values() for axis in label):
        own = [dimensions.get(factor) for factor in axis]
        pattern = tuple(FIXED if d is None else d.name if d.layer is None else f"{d.name}[l]" for d in own)
        layer = next((d.layer for d in own if d is not None and d.layer is not None), None)
        by_pattern.setdefault(pattern, []).append((axis, layer))
    products: list[Product] = []
    for text in family.products:
        factors, _, places = text.partition("@")
        first, second = places.split() or ("tokens", "tokens")
        for axis, layer in by_pattern.get(tuple(factors.split()), []):
            products.append(Product(axis, (_at_layer(first, layer), _at_layer(second, layer)), layer))
    return tuple(products)
