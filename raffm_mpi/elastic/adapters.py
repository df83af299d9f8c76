"""Models with LoRA adapters (Hu et al., 2021): the adapters' labels derive from the rows of their base weights.

A base weight ``out in`` has the factors ``A = rank in`` and ``B = out rank``; each adapter has a rank of its own, a
dimension ``rank[path.adapter]`` like any other. The mean of factors is not the mean of products.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from raffm_mpi.elastic.binding import bind
from raffm_mpi.elastic.factors import RANK, factored_layout, is_factored, with_rank
from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.labels import Axis, Label, write
from raffm_mpi.elastic.submodel import skeleton
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<path>.+)\.lora_(?P<factor>[AB])\.(?P<adapter>[^.]+)\.weight")
_UNUSED = ".original_module."  # what a head was before peft copied it, to train the copy
_WRAPPED = re.compile(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.)")


@dataclass(frozen=True)
class Adapter:
    """The parameters of one adapter: what it adds to its base weight is the product of B (out, rank) and A (rank, in).

    The names are those of a layout; a ``transposed`` base weight has its inputs first.
    """

    base: str
    a: str
    b: str
    rank: str  # its dimension
    transposed: bool

    def product(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What B and A multiply to, in the shape of the base weight: float64."""
        product = tensors[self.b].double() @ tensors[self.a].double()
        return product.T.contiguous() if self.transposed else product


def is_adapted(model: nn.Module) -> bool:
    """Whether a model is one of ``peft``'s, with adapters inside."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def whole_layout(model: nn.Module) -> ModelLayout:
    """The layout of a transformers model, with adapters, factorised or plain; UserMistake as :func:`bind`."""
    if is_factored(model):
        return factored_layout(model)
    return adapted_layout(model) if is_adapted(model) else layout_of(model)


def adapted_layout(model: Any) -> ModelLayout:
    """The layout of a model with LoRA adapters on linear layers; what it does not train is frozen.

    Raises UserMistake naming a parameter of another kind.
    """
    bare = model.get_base_model()
    layout = layout_of(skeleton(type(bare), bare.config))
    names = {f"{path}.{at}".lstrip("."): name for name, places in layout.slots.items() for path, at in places}
    multiplied = dict(layout.matmuls)  # where a tied weight is, too
    rows = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        own = name.removeprefix(_PREFIX)
        factor = _FACTOR.fullmatch(own)
        unwrapped = f"{factor['path']}.weight" if factor else _WRAPPED.sub("", own)
        weight = names.get(unwrapped, unwrapped)
        label = layout.labels.get(weight)
        if label is None or (factor and (parameter.ndim != 2 or len(label) != 2)):
            raise UserMistake(f"adapter parameter '{name}' has no row; known is LoRA on linear layers")
        if factor:
            label = _factor_label(label, factor, transposed=weight in layout.transposed)
        rows[name] = f"{write(label)} @ {multiplied.get(weight, layout.places[weight])}"
    inner = f"{bare.base_model_prefix}." if bare.base_model is bare else ""
    numbers = {
        " | ".join(_PREFIX + pattern.removeprefix(inner) for pattern in patterns.split(" | ")): sizes
        for patterns, sizes in layout.family.numbers.items()
    }
    bound = bind(with_rank(layout.family, rows=rows, numbers=numbers), model)
    return replace(
        bound,
        matmuls=tuple((name, place) for name, place in bound.matmuls if _UNUSED not in name),
        frozen=frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad),
    )


def adapters_of(layout: ModelLayout) -> list[Adapter]:
    """The adapters of an adapted model, in the layout's order."""
    adapters = []
    for name, label in layout.labels.items():
        match = _FACTOR.fullmatch(name)
        if match and match["factor"] == "A":
            weight, b = f"{match['path']}.base_layer.weight", name.replace(".lora_A.", ".lora_B.")
            adapters.append(Adapter(weight, name, b, label[0][0], weight in layout.transposed))
    return adapters


def rank_dimensions(layout: ModelLayout) -> list[str]:
    """The rank of each adapter, as a dimension."""
    return layout.of_kind(Kind.RANK)


def heads_of(model: nn.Module, layout: ModelLayout) -> list[str]:
    """The modules of a bare model that hold its task head: the ones with a matrix that stand beside all layers."""
    matrices = {name for name, _ in layout.matmuls}
    heads = []
    for child, _ in model.named_children():
        own = {name: label for name, label in layout.labels.items() if name.startswith(f"{child}.")}
        factors = {factor for label in own.values() for axis in label for factor in axis}
        in_layers = any(layout.dimensions[factor].layer is not None for factor in factors & layout.dimensions.keys())
        if not in_layers and not matrices.isdisjoint(own):
            heads.append(child)
    return heads


def targets_of(layout: ModelLayout, wanted: Collection[str] | None, heads: Collection[str]) -> list[str]:
    """The linear layers of a bare model that are to have adapters, by their full paths.

    ``wanted`` are full paths or ends of such (``q_proj``); None stands for the matrices of attention, which are those
    that run through heads. Heads of the task, which are trained whole, have none. Raises UserMistake for a name that
    matches no linear layer.
    """
    linear = {
        name.removesuffix(".weight"): label
        for name, _ in layout.matmuls
        if len(label := layout.labels[name]) == 2 and name.partition(".")[0] not in heads
    }
    if wanted is None:
        heads_have = {Kind.HEAD, Kind.KV_HEAD}
        return [path for path, label in linear.items() if any(heads_have & layout.kinds_on(axis) for axis in label)]
    for name in wanted:
        if not any(f".{path}".endswith(f".{name}") for path in linear):
            known = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in linear))
            raise UserMistake(f"'{name}' is no linear layer of family '{layout.family.name}'; known: {known}")
    return [path for path in linear if any(f".{path}".endswith(f".{name}") for name in wanted)]


def resize_wrappers(sub: nn.Module) -> None:
    """Let the modules that hold an adapter say the sizes of their base layer."""
    for module in sub.modules():
        inner = getattr(module, "base_layer", None)
        for name in ("in_features", "out_features"):
            if hasattr(inner, name) and hasattr(module, name):
                setattr(module, name, getattr(inner, name))


def _factor_label(label: Label, factor: re.Match[str], *, transposed: bool) -> Label:
    outputs, inputs = reversed(label) if transposed else label
    rank: Axis = (f"{RANK}[{factor['path']}.{factor['adapter']}]",)
    return (rank, inputs) if factor["factor"] == "A" else (outputs, rank)
