"""What a model family is: one table of labels, and how it is matched to a model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, TypeVar

from torch import nn
from transformers.pytorch_utils import Conv1D

from raffm_mpi.elastic.labels import DENSE, DENSITY, DEPTH, FIXED, Axis, Label, Layout, Selection, base, parse
from raffm_mpi.errors import UserMistake

MATMULS = (nn.Linear, nn.Conv2d, Conv1D)

T = TypeVar("T")
Product = tuple[Axis, tuple[str, str]]


@dataclass(frozen=True)
class Kept:
    """How often autograd keeps what a family's modules compute in several steps: for the estimate of memory alone."""

    norm: float = 1  # a norm's output, once for a fused norm
    ffn: float = 0  # an FFN's hidden value, beside the outputs and inputs of its matrices
    scores: float = 0  # an attention score, where attention is not fused


@dataclass(frozen=True)
class Family:
    """The table of one model family.

    ``rows`` label parameters: ``"module.[l].name": "(head[l] key[l]) residual"``. A row names a module (its weight has
    the label, its bias the label of the weight's outputs) or a parameter; ``a | b`` are its names in different releases
    of transformers; a leading ``?`` marks what not every model has. ``@ place`` ends the label of a matrix that is not
    multiplied once a token: ``@ once`` an example, ``@ target`` for each token of a decoder, or one of ``lengths``.

    ``numbers`` are the sizes that modules keep as attributes (``a | b`` and ``?`` as above), ``counts`` the dimensions
    whose size the model's config knows, ``products`` the dimensions that attention multiplies over all pairs of tokens
    (of two other places: ``@ target tokens``). ``elastic`` are the dimensions behind each setting of an elastic space:
    each entry is a choice of its own in every layer, and dimensions that stand in one entry share their width.
    """

    name: str
    rows: Mapping[str, str]
    numbers: Mapping[str, Mapping[str, str]]
    counts: Mapping[str, str]
    products: tuple[str, ...]
    elastic: Mapping[str, tuple[str, ...]]
    lengths: Callable[[Any], Mapping[str, int]] = lambda config: {}  # places that the config knows, by name
    reserved_positions: int = 0  # of ``max_position_embeddings``, that no token of a text can have
    kept: Kept = Kept()


@dataclass(frozen=True)
class ModelLayout(Layout):
    """The layout of a transformer: its labels, and what cost and assembly need to know of its modules."""

    family: Family
    slots: Mapping[str, tuple[tuple[str, str], ...]]  # parameter -> (module, attribute) of each place it is tied to
    numbers: Mapping[tuple[str, str], tuple[str, ...]]  # (module, attribute) -> the dimensions it counts
    places: Mapping[str, str]  # parameter -> where it is used: tokens, once, target or one of ``lengths``
    matmuls: tuple[tuple[str, str], ...]  # (weight, the place where it is multiplied); a tied weight may have several
    transposed: frozenset[str]  # the weights whose last axis is that of the outputs
    products: tuple[Product, ...]  # the dimensions of each attention product, and the two places it pairs
    lengths: Mapping[str, int]  # positions of the places that the model itself knows
    stack: str = ""  # the module that lists the layers, where there is one such list; else empty
    frozen: frozenset[str] = frozenset()  # the parameters that no client trains: the base of adapters

    @property
    def trained(self) -> list[str]:
        """The parameters that clients train."""
        return [name for name in self.labels if name not in self.frozen]

    def restrict(self, selection: Selection) -> ModelLayout:
        """The layout of the sub-model that a selection keeps."""
        sub = super().restrict(selection)
        if len(sub.labels) == len(self.labels):
            return sub
        return replace(
            sub,
            slots={name: self.slots[name] for name in sub.labels},
            matmuls=tuple((name, place) for name, place in self.matmuls if name in sub.labels),
            products=tuple(product for product in self.products if _layer(product[0]) < sub.size(DEPTH)),
        )

    def axes_of(self, setting: str) -> list[tuple[str, ...]]:
        """The dimensions of one entry of an elastic space, one tuple a layer: ``[("key[0]", "value[0]"), …]``."""
        if setting == DEPTH:
            return [(DEPTH,)]
        axes: list[tuple[str, ...]] = []
        for entry in self.family.elastic[setting]:
            axes += zip(*([d for d in self.sizes if base(d) == wanted] for wanted in entry.split()), strict=True)
        return axes


def also_under(prefix: str, table: Mapping[str, T]) -> dict[str, T]:
    """Rows or numbers of what some models keep whole in another module: each name as it is, and after ``prefix``."""
    return {f"{name} | {prefix}{name.lstrip('?')}": entry for name, entry in table.items()}


def num_patches(config: Any) -> int:
    """Patches of an image, from a config's ``image_size`` and ``patch_size`` (numbers or pairs of them)."""
    sides = [(size, size) if isinstance(size, int) else size for size in (config.image_size, config.patch_size)]
    return (sides[0][0] // sides[1][0]) * (sides[0][1] // sides[1][1])


def bind(family: Family, model: nn.Module) -> ModelLayout:
    """Match a family's table to a model.

    Raises UserMistake naming what was looked for and what was found when a row matches nothing, a parameter has no row,
    or a shape contradicts its label.
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
        if attribute == "weight" and isinstance(modules[path], MATMULS)
    ]
    needed = [prefix + name for name in slots] + [slot for _, slot in matmuls]  # a tied weight's matrices, too
    _check_complete(family, model, [name for name in needed if name not in where], unmatched)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    labels, sizes = _solve(family, model, {name: labels[name] for name in shapes}, shapes)
    stack, layers = _find_stack(labels)
    return ModelLayout(
        labels=labels,
        shapes=shapes,
        sizes=sizes,
        layers=layers,
        parts={**({DEPTH: 1 + max(layers.values())} if layers else {}), DENSITY: DENSE},
        stack=stack,
        family=family,
        slots=slots,
        numbers=_bind_numbers(family, modules, prefix),
        places={canonical[name]: place for name, place in reversed(where.items())},
        matmuls=tuple((name, where[slot]) for name, slot in matmuls),
        transposed=frozenset(name for name in labels if prefix + name.removesuffix(".weight") in transposed),
        products=_bind_products(family, labels),
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
                    yield name, _with_layer(own, layer), place.replace("[l]", f"[{layer}]")


def _with_layer(label: Label, layer: str | None) -> Label:
    return tuple(tuple(factor.replace("[l]", f"[{layer}]") for factor in axis) for axis in label)


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
    dimensions = list(dict.fromkeys(f for axis, _, _ in axes for f in axis if f != FIXED and not f.isdigit()))
    sizes = {d: _from_config(model.config, family.counts[base(d)]) for d in dimensions if base(d) in family.counts}

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
                    numbers[path, name] = tuple(f.replace("[l]", f"[{match['l']}]") for f in text.split())
    if not numbers:
        raise UserMistake(f"family '{family.name}': found no module named {' or '.join(family.numbers)}")
    return numbers


def _find_stack(labels: Mapping[str, Label]) -> tuple[str, dict[str, int]]:
    """The list of layers and the layer of each parameter in it; nothing for a model with several lists."""
    found = {name: match for name in labels if (match := re.match(r"(.+?)\.(\d+)\.", name))}
    stacks = {match[1] for match in found.values()}
    if len(stacks) != 1:
        return "", {}
    return stacks.pop(), {name: int(match[2]) for name, match in found.items()}


def _layer(axis: Axis) -> int:
    """The layer of an axis's dimensions."""
    return int(next(match[1] for factor in axis if (match := re.search(r"\[(\d+)\]", factor))))


def _bind_products(family: Family, labels: Mapping[str, Label]) -> tuple[Product, ...]:
    """The products of every layer: those whose dimensions stand together on an axis of some parameter."""
    axes = {axis: axis for label in labels.values() for axis in label}
    by_pattern: dict[Axis, list[Axis]] = {}
    for axis in axes:
        pattern = tuple(FIXED if f.isdigit() else re.sub(r"\[\d+\]", "[l]", f) for f in axis)
        by_pattern.setdefault(pattern, []).append(axis)
    products: list[Product] = []
    for text in family.products:
        dimensions, _, places = text.partition("@")
        first, second = places.split() or ("tokens", "tokens")
        for axis in by_pattern.get(tuple(dimensions.split()), []):
            layer = next((match[0] for factor in axis if (match := re.search(r"\[\d+\]", factor))), "")
            products.append((axis, (first.replace("[l]", layer), second.replace("[l]", layer))))
    return tuple(products)
