"""Checkpoints of a model with adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raffm_mpi.errors import UserMistake

_CHECKPOINT = "raffm.safetensors"


def save_adapted(model: Any, folder: Path) -> None:
    """Write adapters as ``peft`` does, the config, and every parameter in its present order: safetensors alone."""
    from safetensors.torch import save_file

    model.save_pretrained(str(folder), save_embedding_layers=False)
    model.config.save_pretrained(str(folder))
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    save_file(tensors, str(folder / _CHECKPOINT))


def load_adapted(model: nn.Module, folder: Path) -> None:
    """Read what :func:`save_adapted` wrote into a model with the same adapters; UserMistake if it does not fit."""
    from safetensors.torch import load_file

    path = folder / _CHECKPOINT
    if not path.is_file():
        raise UserMistake(f"'{folder}' holds no checkpoint of adapters: {_CHECKPOINT} is missing")
    found: Mapping[str, torch.Tensor] = load_file(str(path))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name in sorted({*found, *parameters}):
        shapes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (found, parameters)]
        if shapes[0] != shapes[1]:
            raise UserMistake(f"'{folder}': '{name}' has shape {shapes[0]} there and {shapes[1]} in the model")
    for name, parameter in parameters.items():
        parameter.copy_(found[name])
