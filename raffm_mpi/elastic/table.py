"""What a model family is, one table of labels, and what is known of a model that a table was matched to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from raffm_mpi.elastic.kinds import SETTINGS, Dimension, Kind
from raffm_mpi.elastic.labels import DEPTH, Axis, Layout, Selection

T = TypeVar("T")


class Product(NamedTuple):
    """A product of attention in one layer: the dimensions that it multiplies over all pairs of two places."""

    axis: Axis
    places: tuple[str, str]
    layer: int | None  # None: it stands beside the layers


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
    (of two other places: ``@ target tokens``). ``kinds`` say what each dimension is, by its name without ``[l]``, and
    ``stacks`` which of them one stack of layers has to itself, in a family that has several. ``lacks`` has the reason
    why a kind is no dimension here that other families have.
    """

    name: str
    rows: Mapping[str, str]
    numbers: Mapping[str, Mapping[str, str]]
    counts: Mapping[str, str]
    products: tuple[str, ...]
    kinds: Mapping[str, Kind]
    stacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lacks: Mapping[Kind, str] = field(default_factory=dict)
    lengths: Callable[[Any], Mapping[str, int]] = lambda config: {}  # places that the config knows, by name
    reserved_positions: int = 0  # of ``max_position_embeddings``, that no token of a text can have
    kept: Kept = Kept()

    @property
    def elastic(self) -> tuple[str, ...]:
        """The settings of an elastic space that the family has."""
        return tuple(setting for setting in SETTINGS if self.choices(setting))

    def choices(self, setting: str) -> list[tuple[str, ...]]:
        """The dimensions behind a setting, one tuple a choice; those in one tuple share their width in every layer."""
        return [
            names
            for stack in dict.fromkeys(map(self.stack_of, self.kinds))
            for kinds in SETTINGS[setting]
            for names in zip(*(self._named(kind, stack) for kind in kinds), strict=False)
        ]

    def stack_of(self, name: str) -> str:
        """The stack that has a dimension to itself; empty where the family has one stack, or all stacks share it."""
        return next((stack for stack, names in self.stacks.items() if name in names), "")

    def _named(self, kind: Kind, stack: str) -> list[str]:
        return [name for name, own in self.kinds.items() if own is kind and self.stack_of(name) == stack]


@dataclass(frozen=True)
class ModelLayout(Layout):
    """The layout of a transformer: its labels, and what cost and assembly need to know of its modules."""

    family: Family
    dimensions: Mapping[str, Dimension]  # what each of ``sizes`` is
    slots: Mapping[str, tuple[tuple[str, str], ...]]  # parameter -> (module, attribute) of each place it is tied to
    numbers: Mapping[tuple[str, str], tuple[str, ...]]  # (module, attribute) -> the dimensions it counts
    places: Mapping[str, str]  # parameter -> where it is used: tokens, once, target or one of ``lengths``
    matmuls: tuple[tuple[str, str], ...]  # (weight, the place where it is multiplied); a tied weight may have several
    transposed: frozenset[str]  # the weights whose last axis is that of the outputs
    products: tuple[Product, ...]
    lengths: Mapping[str, int]  # positions of the places that the model itself knows
    layer_list: str = ""  # the module that lists the layers, where there is one such list; else empty
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
            products=tuple(p for p in self.products if p.layer is None or p.layer < sub.size(DEPTH)),
        )

    def kind_of(self, dimension: str) -> Kind:
        """What a dimension with an axis is."""
        return self.dimensions[dimension].kind

    def stack_of(self, dimension: str) -> str:
        """The stack of layers that has a dimension to itself; empty for none, or where the model has one stack."""
        return self.dimensions[dimension].stack

    def of_kind(self, *kinds: Kind) -> list[str]:
        """The dimensions of some kinds, in the layout's order."""
        return [dimension for dimension, own in self.dimensions.items() if own.kind in kinds]

    def kinds_on(self, axis: Axis) -> set[Kind]:
        """The kinds of an axis's dimensions; its fixed factors have none."""
        return {self.dimensions[factor].kind for factor in axis if factor in self.dimensions}

    def axes_of(self, setting: str) -> list[tuple[str, ...]]:
        """The dimensions of one setting of an elastic space, one tuple a choice: ``[("key[0]", "value[0]"), …]``."""
        if setting == DEPTH:
            return [(DEPTH,)]
        named: dict[str, list[str]] = {}
        for dimension, own in self.dimensions.items():
            named.setdefault(own.name, []).append(dimension)
        choices = self.family.choices(setting)
        return [axis for names in choices for axis in zip(*(named.get(name, []) for name in names), strict=True)]


def also_under(prefix: str, table: Mapping[str, T]) -> dict[str, T]:
    """Rows or numbers of what some models keep whole in another module: each name as it is, and after ``prefix``."""
    return {f"{name} | {prefix}{name.lstrip('?')}": entry for name, entry in table.items()}


def num_patches(config: Any) -> int:
    """Patches of an image, from a config's ``image_size`` and ``patch_size`` (numbers or pairs of them)."""
    sides = [(size, size) if isinstance(size, int) else size for size in (config.image_size, config.patch_size)]
    return (sides[0][0] // sides[1][0]) * (sides[0][1] // sides[1][1])
