"""Sub-models as models of their own: cut out, described in their config, saved with the hub's format, read back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.labels import Selection
from raffm_mpi.elastic.submodel import Shell, extract, skeleton
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake

# Keys of ours in a model's config, which save_pretrained writes to config.json.
SUBMODEL = "raffm_submodel"  # {"selection": {dimension: kept}, "plain": bool}
ORDER = "raffm_order"  # fingerprint of every reordering so far; sub-models of another order do not fit

# What configs call the sizes that a transformers class is built from.
_CONFIG_NAMES = {
    Kind.FFN: ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "mlp_dim", "hidden_dim"),
    Kind.RESIDUAL: ("hidden_size",),
    Kind.KV_HEAD: ("num_key_value_heads",),
    Kind.HEAD: ("num_attention_heads",),
}


def cut(model: nn.Module, layout: ModelLayout, selection: Selection) -> nn.Module:
    """A sub-model of its own, on the model's device, that knows its selection (of prefixes) and trains what it trains.

    Its config is the full model's, or its own where a class of transformers has exactly its shape (see
    :func:`load_submodel`).
    """
    sub: Any = extract(model, layout, selection)
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in sub.named_parameters():
        parameter.requires_grad_(trains[name])
    vars(sub.config).pop("elastic_config", None)
    plain = None if hasattr(sub, "peft_config") else _plain_config(sub, layout, selection)
    if plain is not None:
        vars(sub.config).update(vars(plain))
    setattr(sub.config, SUBMODEL, {"selection": dict(selection), "plain": plain is not None})
    return cast(nn.Module, sub.to(next(model.parameters()).device))


def load_submodel(path: str | Path) -> nn.Module:
    """The sub-model that ``save_pretrained`` wrote to a folder, bit for bit, in evaluation mode.

    The hub's own classes (``AutoModelForImageClassification.from_pretrained`` and the like) read the folder too, with
    the same output, where the shape is one that a config can say: all layers alike, and heads of the width that the
    class derives (hidden size = heads × head width, or a ``head_dim`` in the config where the class heeds it). Its
    config.json then says ``"plain": true``. Sub-models of other shapes, such as layers that differ, only this function
    reads. The attention implementation is not saved, as is usual with transformers; another one rounds otherwise. Hub
    code is never executed and no pickle is read.

    Raises UserMistake for a folder that holds no sub-model.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserMistake(f"'{path}' holds no model: {str(error).splitlines()[0]}") from None
    known = getattr(config, SUBMODEL, None)
    if known is None:
        raise UserMistake(
            f"'{path}' holds no sub-model: its config.json has no '{SUBMODEL}'; load it with transformers"
        )
    original: Any = getattr(transformers, (config.architectures or [""])[0], None)
    if original is None:
        raise UserMistake(f"'{path}': transformers has no class {config.architectures}")
    reader = original if known["plain"] else _reader(original, config, known["selection"])
    try:
        model: Any = reader.from_pretrained(str(path), use_safetensors=True, local_files_only=True)
    except OSError as error:
        raise UserMistake(f"'{path}' cannot be read: {str(error).splitlines()[0]}") from None
    model.__class__ = original
    return cast(nn.Module, model)


def _reader(original: Any, config: Any, selection: Selection) -> Any:
    """A class that builds the full structure and narrows it before transformers reads the tensors into it."""
    layout = layout_of(skeleton(original, config))  # here tied parameters are tied; while reading not yet
    layout.check(selection)

    def build(self: Any, config: Any, *arguments: Any, **options: Any) -> None:
        original.__init__(self, config, *arguments, **options)
        first = next(self.parameters())
        shapes = layout.restrict(selection).shapes
        tensors = {name: torch.empty(shape, dtype=first.dtype, device=first.device) for name, shape in shapes.items()}
        vars(self).update(vars(Shell(self, first.device).fill(layout.restrict(selection), tensors)))

    return type(original.__name__, (original,), {"__init__": build, "__module__": original.__module__})


def _plain_config(sub: Any, layout: ModelLayout, selection: Selection) -> Any:
    """The config from which the sub-model's own class builds exactly this sub-model; None if there is none."""
    if not selection:
        return copy.deepcopy(sub.config)
    sizes: dict[Kind, int] = {}
    for dimension in layout.of_kind(*_CONFIG_NAMES, Kind.GROUP, Kind.KEY, Kind.HEAD_WIDTH):
        size = layout.size(dimension, selection)
        if sizes.setdefault(layout.kind_of(dimension), size) != size:
            return None
    config = copy.deepcopy(sub.config)
    sizes.setdefault(Kind.HEAD, sizes.get(Kind.KV_HEAD, 1) * sizes.get(Kind.GROUP, 1))
    width = sizes.get(Kind.KEY, sizes.get(Kind.HEAD_WIDTH))
    for own, names in _CONFIG_NAMES.items():
        for name in names if own in sizes else ():
            if hasattr(config, name):
                setattr(config, name, sizes[own])
    if width is not None and sizes[Kind.HEAD] * width != sizes[Kind.RESIDUAL]:
        config.head_dim = width  # some classes read it though their config does not name it
    try:
        candidate = skeleton(type(sub), config)
    except (ValueError, ZeroDivisionError):  # such as a hidden size that the heads do not divide
        return None
    return config if _facts(candidate) == _facts(sub) else None


def _facts(model: nn.Module) -> dict[str, Any]:
    """What a forward pass depends on beside the values: the shape of each parameter, the numbers of each module."""
    facts: dict[str, Any] = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, int | float | tuple) and not name.startswith("_") and name != "training":
                facts[f"{path}:{name}"] = value
    return facts
