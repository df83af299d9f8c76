"""What the dimensions of a family are: a table declares a kind for each name, and nothing else reads the names.

``head`` and ``encoder_head`` are both attention heads because their tables say so. The choices of an elastic space,
the cost of an FFN, the matrices that adapters go to and the paper's order of salience all follow from the kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from raffm_mpi.elastic.labels import Label, parse_dimension
from raffm_mpi.errors import UserMistake


class Kind(Enum):
    """What a dimension is; the value says where a table may use it."""

    RESIDUAL = "a width that all layers share, alone on its axes"
    HEAD = "attention heads, left of their keys and values"
    KV_HEAD = "key-value heads, left of the groups of queries that share one"
    GROUP = "the queries of one key-value head, between that and its values"
    KEY = "the width of a head's queries and keys, last on its axes and not among the inputs of a matrix"
    VALUE = "the width of a head's values, last on its axes and among the inputs of a matrix"
    HEAD_WIDTH = "the width of a head's queries, keys and values, where one row fuses them"
    FFN = "a hidden width of each layer's own, alone on its axes"
    INNER = "a width beside the layers, such as a pooler's, which no space cuts"
    RANK = "the rank of a factorised matrix or an adapter, which no family's table names"


# The choices that each setting of an elastic space has in a stack of layers. Dimensions in one tuple share their width:
# transformers has one head width for keys and values, so that a family without both has no such choice.
SETTINGS: Mapping[str, tuple[tuple[Kind, ...], ...]] = {
    "ffn": ((Kind.FFN,),),
    "heads": ((Kind.HEAD,), (Kind.KV_HEAD,)),
    "groups": ((Kind.GROUP,),),
    "head_width": ((Kind.KEY, Kind.VALUE),),
    "residual": ((Kind.RESIDUAL,),),
}


@dataclass(frozen=True)
class Dimension:
    """One dimension of a model: ``ffn[3]`` is named ``ffn`` in the table, is an FFN, and belongs to layer 3."""

    name: str  # in the table
    kind: Kind
    stack: str = ""  # the family's stack of layers that has it to itself, such as encoder or vision; empty: no such one
    layer: int | None = None  # None: all layers of the stack share it


def classify(
    family: str, dimensions: Collection[str], kinds: Mapping[str, Kind], stacks: Mapping[str, Collection[str]]
) -> dict[str, Dimension]:
    """Each dimension of a model with what its table declares of it; UserMistake naming one without a kind."""
    found = {}
    for dimension in dimensions:
        name, index = parse_dimension(dimension)
        if name not in kinds:
            raise UserMistake(f"family '{family}': dimension '{name}' has no kind; known kinds: {', '.join(kinds)}")
        stack = next((stack for stack, names in stacks.items() if name in names), "")
        layer = int(index) if index is not None and index.isdigit() else None
        found[dimension] = Dimension(name, kinds[name], stack, layer)
    return found


def has_ranks(dimensions: Mapping[str, Dimension]) -> bool:
    """Whether some dimension is the rank of factors at a path, ``rank[path]``."""
    ranks = [dimension for dimension, own in dimensions.items() if own.kind is Kind.RANK and own.layer is None]
    return any(parse_dimension(rank)[1] is not None for rank in ranks)


@dataclass
class _Use:
    """Where a table has one of its dimensions, over all axes of all parameters."""

    left: set[Kind | None] = field(default_factory=set)  # the kind of the neighbour; None: there is none
    right: set[Kind | None] = field(default_factory=set)
    is_layers_own: bool = False
    is_in_layers: bool = False  # some parameter with it also has a dimension of one layer
    is_input: bool = False  # of a matrix
    is_fused: bool = False  # with a number left of it

    @property
    def alone(self) -> bool:
        return self.left == self.right == {None}

    @property
    def ends_head(self) -> bool:
        return self.right == {None} and self.left != {None}


_RULES: Mapping[Kind, Callable[[_Use], bool]] = {
    Kind.RESIDUAL: lambda use: use.alone and use.is_in_layers and not use.is_layers_own,
    Kind.FFN: lambda use: use.alone and use.is_layers_own,
    Kind.INNER: lambda use: use.alone and not use.is_in_layers,
    Kind.HEAD: lambda use: use.left == {None} and bool(use.right & {Kind.KEY, Kind.VALUE, Kind.HEAD_WIDTH}),
    Kind.KV_HEAD: lambda use: use.left == {None} and Kind.GROUP in use.right,
    Kind.GROUP: lambda use: use.left == {Kind.KV_HEAD} and Kind.VALUE in use.right,
    Kind.KEY: lambda use: use.ends_head and not use.is_input and not use.is_fused,
    Kind.VALUE: lambda use: use.ends_head and use.is_input and not use.is_fused,
    Kind.HEAD_WIDTH: lambda use: use.ends_head and use.is_input and use.is_fused,
    Kind.RANK: lambda use: False,
}


def check_kinds(
    family: str,
    labels: Mapping[str, Label],
    dimensions: Mapping[str, Dimension],
    matrices: Collection[str],
    transposed: Collection[str],
) -> None:
    """Raise UserMistake, naming the dimension, where a table uses one otherwise than its kind allows.

    ``matrices`` are the parameters that inputs are multiplied with, ``transposed`` those whose outputs come last.
    """
    uses: dict[str, _Use] = {dimension.name: _Use() for dimension in dimensions.values()}
    for name, label in labels.items():
        known = [dimensions[factor] for axis in label for factor in axis if factor in dimensions]
        is_in_layers = any(dimension.layer is not None for dimension in known)
        outputs = len(label) - 1 if name in transposed else 0
        for position, axis in enumerate(label):
            own = [dimensions[factor] for factor in axis if factor in dimensions]
            for place, dimension in enumerate(own):
                use = uses[dimension.name]
                use.left.add(own[place - 1].kind if place else None)
                use.right.add(own[place + 1].kind if place + 1 < len(own) else None)
                use.is_layers_own |= dimension.layer is not None
                use.is_in_layers |= is_in_layers
                use.is_input |= name in matrices and position != outputs
                use.is_fused |= axis[0] not in dimensions
    kinds = {dimension.name: dimension.kind for dimension in dimensions.values()}
    for name, use in uses.items():
        if not _RULES[kinds[name]](use):
            raise UserMistake(
                f"family '{family}': dimension '{name}' is declared {kinds[name].name}, which is {kinds[name].value}; "
                "its rows use it otherwise"
            )
