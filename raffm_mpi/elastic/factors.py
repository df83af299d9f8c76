"""Factorised models: each matrix of the layers is the product of two thin ones, and their rank is a dimension.

A weight W (out, in) becomes ``up`` (out, rank) and ``down`` (rank, in), from its singular value decomposition U S V^T:
``up = U sqrt(S)``, ``down = sqrt(S) V^T``, so that index i of the rank is the i-th principal component. The labels of
both derive from the row of W.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from raffm_mpi.elastic.binding import bind
from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.labels import write
from raffm_mpi.elastic.submodel import skeleton
from raffm_mpi.elastic.table import Family, ModelLayout
from raffm_mpi.errors import UserMistake

RANK = "rank"
_FACTOR = re.compile(r"(?P<path>.+)\.(?P<factor>up|down)\.(?P<kind>weight|bias)")
_ORIGINAL = "raffm_unfactored"  # the attribute of a factorised model that says so


class Factored(nn.Module):
    """In place of a linear layer: two, one after the other. Computes ``up(down(x))``."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rank, own = min(linear.weight.shape), {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.down = nn.Linear(linear.in_features, rank, bias=False, **own)
        self.up = nn.Linear(rank, linear.out_features, bias=linear.bias is not None, **own)
        if linear.bias is not None:
            self.up.bias = linear.bias
        if not linear.weight.is_meta:
            with torch.no_grad():
                for factor, values in zip((self.up, self.down), decompose(linear.weight), strict=True):
                    factor.weight.copy_(values)

    @property
    def weight(self) -> Tensor:
        """For those who ask for the layer's dtype and device."""
        return self.up.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's outputs."""
        outputs: Tensor = self.up(self.down(inputs))
        return outputs


def decompose(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The factors (out, rank) and (rank, in) of a matrix, both float64, the largest singular value first."""
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return u * s.sqrt(), s.sqrt()[:, None] * vh


def factorise(model: nn.Module) -> nn.Module:
    """The model with every linear layer of its stacks factorised, in place.

    Raises UserMistake for a family that has none.
    """
    layout = layout_of(model)
    paths = [name.removesuffix(".weight") for name, _ in layout.matmuls if re.search(r"\.\d+\.", name)]
    linear = {path: module for path in paths if isinstance(module := model.get_submodule(path), nn.Linear)}
    if not linear:
        raise UserMistake(f"family '{layout.family.name}' has no linear layers to factorise")
    for path, module in linear.items():
        owner, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(owner), attribute, Factored(module))
    setattr(model, _ORIGINAL, True)
    return model


def is_factored(model: nn.Module) -> bool:
    """Whether :func:`factorise` made it."""
    return hasattr(model, _ORIGINAL)


def multiplied_out(model: nn.Module) -> nn.Module:
    """A copy with linear layers again."""
    plain = copy.deepcopy(model)
    delattr(plain, _ORIGINAL)
    for path, module in list(plain.named_modules()):
        if isinstance(module, Factored):
            linear = nn.Linear(module.down.in_features, module.up.out_features, bias=module.up.bias is not None)
            with torch.no_grad():
                linear.weight.copy_(module.up.weight.double() @ module.down.weight.double())
            linear.bias = module.up.bias
            owner, _, attribute = path.rpartition(".")
            setattr(plain.get_submodule(owner), attribute, linear)
    return plain


def factored_layout(model: Any) -> ModelLayout:
    """The layout of a factorised model."""
    layout = layout_of(skeleton(type(model), model.config))
    names = {f"{path}.{at}".lstrip("."): name for name, places in layout.slots.items() for path, at in places}
    rows = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        factor = _FACTOR.fullmatch(name)
        plain = f"{factor['path']}.{factor['kind']}" if factor else name
        plain = names[plain]
        label = layout.labels[plain]
        if factor and factor["kind"] == "weight":
            rank = (f"{RANK}[{factor['path']}]",)
            label = (label[0], rank) if factor["factor"] == "up" else (rank, label[1])
        rows[name] = f"{write(label)} @ {layout.places[plain]}"
    return bind(with_rank(layout.family, rows=rows), model)


def with_rank(family: Family, **changes: Any) -> Family:
    """A family whose rows may also name ranks: ``rank[path]``, the one that the factors at a path share."""
    return replace(family, kinds={**family.kinds, RANK: Kind.RANK}, **changes)


def factor_pairs(layout: ModelLayout) -> list[tuple[str, str, str]]:
    """The names of ``up``, of ``down`` and of the rank dimension of each factorised matrix."""
    found = [(name, match["path"]) for name in layout.labels if (match := _FACTOR.fullmatch(name))]
    paths = dict.fromkeys(path for _, path in found)
    return [(f"{path}.up.weight", f"{path}.down.weight", f"{RANK}[{path}]") for path in paths]


def principal(tensors: Mapping[str, Tensor], layout: ModelLayout) -> dict[str, Tensor]:
    """The singular value of each component of each rank dimension: the product of its column's and its row's norm."""
    return {
        rank: cast(Tensor, tensors[up].double().norm(dim=0) * tensors[down].double().norm(dim=1))
        for up, down, rank in factor_pairs(layout)
    }
