"""Tiny random models of every family and head, with inputs; the property tests run on each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.labels import Selection
from raffm_mpi.elastic.table import ModelLayout

NUM_TOKENS = 9  # of the text inputs


@dataclass(frozen=True)
class Case:
    """A model in evaluation mode, its layout, and a batch of two."""

    family: str
    model: nn.Module
    layout: ModelLayout
    inputs: dict[str, torch.Tensor]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def output(self, model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(**self.inputs)[0]

    def random_widths(self, generator: np.random.Generator, settings: tuple[str, ...] | None = None) -> Selection:
        """A prefix selection with every elastic dimension of the given settings at a random size."""
        selection = {}
        for setting in settings or tuple(self.layout.family.elastic):
            for dimensions in self.layout.axes_of(setting):
                size = int(generator.integers(1, self.layout.sizes[dimensions[0]] + 1))
                selection.update(dict.fromkeys(dimensions, size))
        return selection


def _vit() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=12,
        patch_size=4,
        num_channels=3,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        num_labels=5,
        attn_implementation="eager",
    )
    return ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 12, 12)}


def _bert() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
        num_labels=5,
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config), {"input_ids": torch.randint(0, 60, (2, NUM_TOKENS))}


BUILDERS: dict[str, Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]] = {"vit": _vit, "bert": _bert}


@pytest.fixture(params=BUILDERS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    model, inputs = BUILDERS[request.param]()
    for parameter in model.parameters():  # no zero biases and unit norms, which would hide mistakes
        nn.init.normal_(parameter, std=0.3)
    return Case(request.param, model.eval(), layout_of(model), inputs)


@pytest.fixture
def covered_families() -> set[str]:
    """The families that the property tests run on."""
    return set(BUILDERS)
