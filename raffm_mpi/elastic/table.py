"""What a model family is: one table of labels, and how it is matched to a model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from raffm_mpi.elastic.labels import Label, Layout, base, parse

MATMULS = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class Family:
    """The table of one model family.

    ``rows`` label parameters: ``"module.[l].name": "(head[l] key[l]) residual"``. A row names a module (its weight has
    the label, its bias the label's first axis) or a parameter; ``a | b`` are its names in different releases of
    transformers; a leading ``?`` marks what not every model has. ``@ patches`` or ``@ once`` ends the label of a matrix
    that is not multiplied once a token.

    ``numbers`` are the sizes that modules keep as attributes, ``counts`` the dimensions whose size the model's config
    knows, ``products`` the dimensions that attention multiplies over all pairs of tokens, ``elastic`` the dimensions
    behind each setting of an elastic space (those of one entry share their width).
    """

    name: str
    rows: Mapping[str, str]
    numbers: Mapping[str, Mapping[str, str]]
    counts: Mapping[str, str]
    products: tuple[str, ...]
    elastic: Mapping[str, tuple[str, ...]]
    positions: str | None = None  # the parameter whose second axis is the number of tokens, where that is fixed
    num_extra_tokens: int = 0  # tokens that are not patches


@dataclass(frozen=True)
class ModelLayout(Layout):
    """The layout of a transformer: its labels, and what cost and assembly need to know of its modules."""

    family: Family
    slots: Mapping[str, tuple[tuple[str, str], ...]]  # parameter -> (module, attribute) of each place it is tied to
    numbers: Mapping[tuple[str, str], tuple[str, ...]]  # (module, attribute) -> the dimensions it counts
    matmuls: Mapping[str, str]  # weight -> where it is multiplied: tokens, patches or once
    products: tuple[tuple[str, ...], ...]  # the dimensions of each attention product
    fixed_tokens: int | None = field(default=None)

    def axes_of(self, setting: str) -> list[tuple[str, ...]]:
        """The dimensions of one entry of an elastic space, one tuple a layer: ``[("key[0]", "value[0]"), …]``."""
        bases = self.family.elastic[setting]
        return list(zip(*([d for d in self.sizes if base(d) == wanted] for wanted in bases), strict=True))


def bind(family: Family, model: nn.Module) -> ModelLayout:
    """Match a family's table to a model.

    Raises ValueError naming what was looked for and what was found when a row matches nothing, a parameter has no row,
    or a shape contradicts its label.
    """
    prefix = _base_prefix(model)
    names = {prefix + name: name for name, _ in model.named_parameters()}
    labels, where, unmatched = {}, {}, []
    for patterns, expression in family.rows.items():
        text, _, place = expression.partition("@")
        found = dict(_match_row(patterns.lstrip("?"), parse(text), names))
        if not found and not patterns.startswith("?"):
            unmatched.append(patterns)
        labels.update({names[name]: label for name, label in found.items() if names[name] not in labels})
        where.update({names[name]: place.strip() or "tokens" for name in found})
    _check_complete(family, model, labels, unmatched)
    labels = {name: labels[name] for name in names.values()}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    modules = dict(model.named_modules())
    return ModelLayout(
        labels=labels,
        shapes=shapes,
        sizes=_solve_sizes(family, model, labels, shapes),
        family=family,
        slots=_slots(model),
        numbers=_bind_numbers(family, modules, prefix),
        matmuls={
            name: where[name]
            for name in labels
            if name.endswith(".weight") and isinstance(modules[name.removesuffix(".weight")], MATMULS)
        },
        products=_bind_products(family, labels),
        fixed_tokens=None if family.positions is None else shapes[family.positions.removeprefix(prefix)][1],
    )


def _base_prefix(model: nn.Module) -> str:
    """What a bare base model's parameter names lack: ``"vit."`` for ViTModel, nothing for a model with a head."""
    is_bare = getattr(model, "base_model", None) is model
    return f"{model.base_model_prefix}." if is_bare else ""


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(re.escape("[l]"), r"(?P<l>\d+)"))


def _match_row(patterns: str, label: Label, names: Mapping[str, str]) -> Iterator[tuple[str, Label]]:
    for pattern in patterns.split(" | "):
        for suffix, suffix_label in (("", label), (".weight", label), (".bias", label[:1])):
            regex = _regex(pattern + suffix)
            for name in names:
                if match := regex.fullmatch(name):
                    yield name, _with_layer(suffix_label, match.groupdict().get("l"))


def _with_layer(label: Label, layer: str | None) -> Label:
    return tuple(tuple(factor.replace("[l]", f"[{layer}]") for factor in axis) for axis in label)


def _check_complete(family: Family, model: nn.Module, labels: Mapping[str, Label], unmatched: list[str]) -> None:
    unlabelled = [name for name, _ in model.named_parameters() if name not in labels]
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
    raise ValueError(
        f"family '{family.name}' does not fit {type(model).__name__}: {'; '.join(problems)}; found {', '.join(found)}"
    )


def _solve_sizes(
    family: Family, model: nn.Module, labels: Mapping[str, Label], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """Every dimension's size, from the shapes and the head counts of the model's config."""
    axes = [
        (axis, length, name)
        for name, label in labels.items()
        for axis, length in zip(label, _checked_shape(name, label, shapes[name]), strict=True)
        if axis
    ]
    dimensions = dict.fromkeys(factor for axis, _, _ in axes for factor in axis)
    sizes = {
        dimension: getattr(model.config, family.counts[base(dimension)])
        for dimension in dimensions
        if base(dimension) in family.counts
    }
    while len(sizes) < len(dimensions):
        solvable = [entry for entry in axes if len([f for f in entry[0] if f not in sizes]) == 1]
        assert solvable, f"family '{family.name}': sizes of {dimensions.keys() - sizes.keys()} cannot be solved"
        for axis, length, _ in solvable:
            unknown = next((factor for factor in axis if factor not in sizes), None)
            if unknown is not None:
                sizes[unknown] = length // math.prod(sizes[factor] for factor in axis if factor in sizes)
    for axis, length, name in axes:
        if math.prod(sizes[factor] for factor in axis) != length:
            solved = ", ".join(f"{factor} = {sizes[factor]}" for factor in axis)
            raise ValueError(
                f"family '{family.name}': '{name}' has length {length} on axis ({' '.join(axis)}); {solved}"
            )
    return {dimension: sizes[dimension] for dimension in dimensions}


def _checked_shape(name: str, label: Label, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(label) != len(shape):
        raise ValueError(f"'{name}' has {len(shape)} axes, its label has {len(label)}: {label}")
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
    for pattern, attributes in family.numbers.items():
        regex = _regex(pattern)
        for path, module in modules.items():
            if match := regex.fullmatch(prefix + path):
                for attribute, text in attributes.items():
                    assert hasattr(module, attribute), f"family '{family.name}': {path} has no '{attribute}'"
                    numbers[path, attribute] = tuple(f.replace("[l]", f"[{match['l']}]") for f in text.split())
    if not numbers:
        raise ValueError(f"family '{family.name}': found no module named {' or '.join(family.numbers)}")
    return numbers


def _bind_products(family: Family, labels: Mapping[str, Label]) -> tuple[tuple[str, ...], ...]:
    """The products of every layer: those whose dimensions stand together on an axis of some parameter."""
    axes = dict.fromkeys(axis for label in labels.values() for axis in label)
    wanted = {tuple(text.split()) for text in family.products}
    return tuple(axis for axis in axes if tuple(re.sub(r"\d+", "l", factor) for factor in axis) in wanted)
