"""Sub-models: the full model's module tree with other parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from raffm_mpi.elastic.labels import DEPTH, Layout, Selection, Tensors
from raffm_mpi.elastic.table import ModelLayout

# What torch's own modules keep as numbers, from the shape of their weight.
_SHAPED: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("out_features", "in_features"),
    nn.Conv2d: ("out_channels", "in_channels"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    Conv1D: ("nx", "nf"),
}


class Shell:
    """The module tree of a model without its tensors, to be filled with those of one sub-model after another.

    What the modules keep as numbers follows the tensors, except the attention scaling: narrower heads keep the full
    model's 1/sqrt(head_dim), so that a slice computes what the masked full model computes.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._model: nn.Module = copy.deepcopy(model, memo={id(tensor): tensor for tensor in tensors})
        self._modules = dict(self._model.named_modules())
        for module in self._modules.values():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)

    def fill(self, layout: ModelLayout, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The module with the given parameters, which it shares; the one returned before is this same module.

        ``layout`` is the sub-model's (``full.restrict(selection)``), ``tensors`` hold each of its parameters; what
        is frozen wants no gradient.
        """
        for name, places in layout.slots.items():
            parameter = nn.Parameter(tensors[name], requires_grad=name not in layout.frozen)
            for path, attribute in places:
                module = self._modules[path]
                module._parameters[attribute] = parameter
                if attribute == "weight":
                    _set_shape(module, parameter.shape)
        self._set_depth(layout)
        for (path, attribute), dimensions in layout.numbers.items():
            setattr(self._modules[path], attribute, math.prod(layout.sizes[d] for d in dimensions))
        return self._model

    def _set_depth(self, layout: ModelLayout) -> None:
        """Let the model's list of layers have as many as the layout."""
        if not layout.layer_list:
            return
        layers = self._modules[layout.layer_list]
        assert isinstance(layers, nn.ModuleList)
        depth = layout.size(DEPTH)
        owner, _, attribute = layout.layer_list.rpartition(".")
        setattr(self._modules[owner], attribute, layers if depth == len(layers) else layers[:depth])


class ElasticModel:
    """A model on a device that becomes one sub-model after another, of the travelling tensors that it is given.

    What is not ``sent`` never travels: it lies here in full width (``fixed``), and each sub-model takes its slices.
    """

    def __init__(self, model: nn.Module, layout: ModelLayout, sent: Layout, device: torch.device) -> None:
        self.layout = layout
        self.device = device
        self.shell = Shell(model, device)
        self.fixed: Tensors = {
            name: parameter.detach().to(device)
            for name, parameter in model.named_parameters()
            if name not in sent.labels
        }

    def fill(self, selection: Selection, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The sub-model that a selection of the full model keeps; as :meth:`Shell.fill`.

        ``tensors`` are the sub-model's own that travel; contiguous ones on the device are shared, others copied.
        """
        own = {**self.layout.take(self.fixed, selection), **tensors}
        on_device = {name: tensor.contiguous().to(self.device) for name, tensor in own.items()}
        return self.shell.fill(self.layout.restrict(selection), on_device)


def skeleton(build: Callable[[Any], Any], config: Any) -> nn.Module:
    """The model that a transformers class builds from a config, on torch's meta device.

    It has names, shapes and ties, and no values. The config is not changed. Errors are the class's own.
    """
    with torch.device("meta"):
        model = build(copy.deepcopy(config))
    model.tie_weights()  # some releases leave it out on this device
    return cast(nn.Module, model)


def extract(model: nn.Module, layout: ModelLayout, selection: Selection) -> nn.Module:
    """A sub-model of its own: the structure and a copy of the parameters that a selection keeps."""
    layout.check(selection)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors = {name: tensor.clone() for name, tensor in layout.take(parameters, selection).items()}
    return Shell(model).fill(layout.restrict(selection), tensors)


def _set_shape(module: nn.Module, shape: torch.Size) -> None:
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(shape)
    for attribute, size in zip(_SHAPED.get(type(module), ()), shape, strict=False):
        setattr(module, attribute, size)
