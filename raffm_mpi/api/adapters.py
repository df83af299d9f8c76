"""Models with LoRA adapters (Hu et al., 2021): the adapters' labels derive from the rows of their base weights.

A base weight ``out in`` has the factors ``A = rank in`` and ``B = out rank``; each adapter has a rank of its own. The
mean of factors is not the mean of products: averaging adapters is FedAvg on A and B, as in the official code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raffm_mpi.api.submodels import structure
from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.labels import Axis, Label
from raffm_mpi.elastic.table import ModelLayout, bind

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<path>.+)\.lora_(?P<factor>[AB])\.(?P<adapter>[^.]+)\.weight")
_WRAPPED = re.compile(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.)")
_CHECKPOINT = "raffm.safetensors"


def is_adapted(model: nn.Module) -> bool:
    """Whether a model is one of ``peft``'s, with adapters inside."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def adapted_layout(model: Any) -> ModelLayout:
    """The layout of a model with LoRA adapters on linear layers; ValueError naming a parameter of another kind."""
    bare = model.get_base_model()
    layout = layout_of(structure(type(bare), bare.config))
    names = {f"{path}.{at}".lstrip("."): name for name, places in layout.slots.items() for path, at in places}
    rows = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        own = name.removeprefix(_PREFIX)
        factor = _FACTOR.fullmatch(own)
        base = f"{factor['path']}.weight" if factor else _WRAPPED.sub("", own)
        weight = names.get(base, base)
        label = layout.labels.get(weight)
        if label is None or (factor and (parameter.ndim != 2 or len(label) != 2)):
            raise ValueError(f"adapter parameter '{name}' has no row; RaPEFT knows LoRA on linear layers")
        if factor:
            label = _factor_label(label, factor, transposed=weight in layout.transposed)
        rows[name] = f"{_write(label)} @ {layout.places[weight]}"
    inner = f"{bare.base_model_prefix}." if bare.base_model is bare else ""
    numbers = {
        " | ".join(_PREFIX + pattern.removeprefix(inner) for pattern in patterns.split(" | ")): sizes
        for patterns, sizes in layout.family.numbers.items()
    }
    return bind(replace(layout.family, rows=rows, numbers=numbers), model)


def resize_wrappers(sub: nn.Module) -> None:
    """Let the modules that hold an adapter say the sizes of their base layer."""
    for module in sub.modules():
        inner = getattr(module, "base_layer", None)
        for name in ("in_features", "out_features"):
            if hasattr(inner, name) and hasattr(module, name):
                setattr(module, name, getattr(inner, name))


def save_adapted(model: Any, folder: Path) -> None:
    """Write adapters as ``peft`` does, the config, and every parameter in its present order: safetensors alone."""
    from safetensors.torch import save_file

    model.save_pretrained(str(folder), save_embedding_layers=False)
    model.config.save_pretrained(str(folder))
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    save_file(tensors, str(folder / _CHECKPOINT))


def load_adapted(model: nn.Module, folder: Path) -> None:
    """Read what :func:`save_adapted` wrote into a model with the same adapters; ValueError if it does not fit."""
    from safetensors.torch import load_file

    path = folder / _CHECKPOINT
    if not path.is_file():
        raise ValueError(f"'{folder}' holds no checkpoint of adapters: {_CHECKPOINT} is missing")
    found: Mapping[str, torch.Tensor] = load_file(str(path))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name in sorted({*found, *parameters}):
        shapes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (found, parameters)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"'{folder}': '{name}' has shape {shapes[0]} there and {shapes[1]} in the model")
    for name, parameter in parameters.items():
        parameter.copy_(found[name])


def _factor_label(label: Label, factor: re.Match[str], *, transposed: bool) -> Label:
    outputs, inputs = reversed(label) if transposed else label
    rank: Axis = (f"rank[{factor['path']}.{factor['adapter']}]",)
    return (rank, inputs) if factor["factor"] == "A" else (outputs, rank)


def _write(label: Label) -> str:
    """The expression of a label: the inverse of ``parse``."""
    return " ".join("." if not axis else f"({' '.join(axis)})" for axis in label)
