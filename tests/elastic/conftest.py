"""Tiny random models of every family and head, with inputs; the property tests run on each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.labels import Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.tasks.heads import EncoderForImageClassification
from support import tiny

NUM_TOKENS = 9  # of the text inputs
NUM_TARGETS = 5  # of a decoder beside an encoder
OUTPUTS = ("logits", "start_logits", "end_logits", "logits_per_image")


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
        """What the model says: logits of its head (start and end of an answer together), or its encoding."""
        with torch.no_grad():
            return self.said(model(**self.inputs))

    def said(self, outputs: Any) -> torch.Tensor:
        """The part of a model's outputs that :meth:`output` returns."""
        found = [outputs[key] for key in OUTPUTS if outputs.get(key) is not None]
        return torch.cat(found or [outputs.last_hidden_state], dim=-1)

    def some_widths(self) -> Selection:
        """A prefix selection that narrows the residual by a third and the first layer's FFN to a fifth."""
        sizes, dimensions = self.layout.sizes, self.layout.dimensions
        first = [dimension for dimension in self.layout.of_kind(Kind.FFN) if dimensions[dimension].layer == 0]
        narrow = {dimension: 2 * sizes[dimension] // 3 for dimension in self.layout.of_kind(Kind.RESIDUAL)}
        return narrow | {dimension: sizes[dimension] // 5 for dimension in first}

    def random_widths(self, generator: np.random.Generator, settings: tuple[str, ...] | None = None) -> Selection:
        """A prefix selection with every elastic dimension of the given settings at a random size."""
        selection = {}
        for setting in settings or self.layout.family.elastic:
            for dimensions in self.layout.axes_of(setting):
                size = int(generator.integers(1, self.layout.sizes[dimensions[0]] + 1))
                selection.update(dict.fromkeys(dimensions, size))
        return selection


def _model(name: str, config: Any) -> nn.Module:
    import transformers

    config._attn_implementation = "eager"
    return getattr(transformers, name, EncoderForImageClassification)(config)


def _config(name: str, **values: Any) -> Any:
    import transformers

    return getattr(transformers, f"{name}Config")(num_labels=values.pop("num_labels", 5), **values)


def _pixels() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 1, 8, 8)}


def _tokens() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(2, 60, (2, NUM_TOKENS))}


def _pairs() -> dict[str, torch.Tensor]:
    return {**_tokens(), "decoder_input_ids": torch.randint(2, 60, (2, NUM_TARGETS))}


def _clip() -> Any:
    from transformers import CLIPConfig

    return CLIPConfig(**tiny.CLIP, num_labels=5)


def _sam() -> Any:
    from transformers import SamVisionConfig

    return SamVisionConfig(**tiny.SAM)


def _ended() -> dict[str, torch.Tensor]:
    """Sentences with an end, where T5 classifies and CLIP pools."""
    end = tiny.ENDS["eos_token_id"]
    tokens = torch.randint(end + 1, 60, (2, NUM_TOKENS))
    tokens[:, -1] = end
    return {"input_ids": tokens}


Builder = tuple[str, Callable[[], Any], Callable[[], dict[str, torch.Tensor]]]

# Of each family, the first is its main head; all property tests run on all of them.
BUILDERS: dict[str, Builder] = {
    "vit": ("ViTForImageClassification", lambda: _config("ViT", **tiny.VIT), _pixels),
    "deit": ("DeiTForImageClassification", lambda: _config("DeiT", **tiny.VIT), _pixels),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", lambda: _config("DeiT", **tiny.VIT), _pixels),
    "dinov2": ("Dinov2ForImageClassification", lambda: _config("Dinov2", **tiny.DINOV2), _pixels),
    "dinov2-swiglu": (
        "Dinov2ForImageClassification",
        lambda: _config("Dinov2", use_swiglu_ffn=True, **tiny.DINOV2),
        _pixels,
    ),
    "clip": ("CLIPModel", _clip, lambda: {**_ended(), **_pixels()}),
    "clip-image": ("CLIPForImageClassification", _clip, _pixels),
    "sam_vision_model": ("SamVisionModel", _sam, _pixels),
    "sam_vision_model-image": ("EncoderForImageClassification", _sam, _pixels),
    "bert": ("BertForSequenceClassification", lambda: _config("Bert", **tiny.BERT), _tokens),
    "bert-qa": ("BertForQuestionAnswering", lambda: _config("Bert", num_labels=2, **tiny.BERT), _tokens),
    "roberta": ("RobertaForSequenceClassification", lambda: _config("Roberta", **tiny.BERT), _tokens),
    "roberta-qa": ("RobertaForQuestionAnswering", lambda: _config("Roberta", num_labels=2, **tiny.BERT), _tokens),
    "distilbert": (
        "DistilBertForSequenceClassification",
        lambda: _config("DistilBert", **tiny.DISTILBERT),
        _tokens,
    ),
    "distilbert-qa": (
        "DistilBertForQuestionAnswering",
        lambda: _config("DistilBert", num_labels=2, **tiny.DISTILBERT),
        _tokens,
    ),
    "t5": ("T5ForConditionalGeneration", lambda: _config("T5", decoder_start_token_id=0, **tiny.T5), _pairs),
    "t5-gated-untied": (
        "T5ForConditionalGeneration",
        lambda: _config(
            "T5", decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False, **tiny.T5
        ),
        _pairs,
    ),
    "t5-classification": (
        "T5ForSequenceClassification",
        lambda: _config("T5", decoder_start_token_id=0, **tiny.T5),
        _ended,
    ),
    "t5-qa": (
        "T5ForQuestionAnswering",
        lambda: _config("T5", decoder_start_token_id=0, num_labels=2, **tiny.T5),
        _tokens,
    ),
    "llama": ("LlamaForCausalLM", lambda: _config("Llama", **tiny.LLAMA), _tokens),
    "llama-tied": ("LlamaForCausalLM", lambda: _config("Llama", tie_word_embeddings=True, **tiny.LLAMA), _tokens),
    "llama-classification": ("LlamaForSequenceClassification", lambda: _config("Llama", **tiny.LLAMA), _tokens),
    "llama-qa": ("LlamaForQuestionAnswering", lambda: _config("Llama", num_labels=2, **tiny.LLAMA), _tokens),
    "mistral": ("MistralForCausalLM", lambda: _config("Mistral", **tiny.LLAMA), _tokens),
    "qwen2": ("Qwen2ForCausalLM", lambda: _config("Qwen2", **tiny.QWEN2), _tokens),
    "qwen3": ("Qwen3ForCausalLM", lambda: _config("Qwen3", **tiny.LLAMA), _tokens),
    "opt": ("OPTForCausalLM", lambda: _config("OPT", **tiny.OPT), _tokens),
    "opt-classification": ("OPTForSequenceClassification", lambda: _config("OPT", **tiny.OPT), _tokens),
    "opt-qa": ("OPTForQuestionAnswering", lambda: _config("OPT", num_labels=2, **tiny.OPT), _tokens),
    "gpt2": ("GPT2LMHeadModel", lambda: _config("GPT2", **tiny.GPT2), _tokens),
    "gpt2-classification": ("GPT2ForSequenceClassification", lambda: _config("GPT2", **tiny.GPT2), _tokens),
    "gpt2-qa": ("GPT2ForQuestionAnswering", lambda: _config("GPT2", num_labels=2, **tiny.GPT2), _tokens),
}


def _build(name: str) -> Case:
    model_class, config, inputs = BUILDERS[name]
    torch.manual_seed(0)
    model = _model(model_class, config())
    for parameter in model.parameters():  # no zero biases and unit norms, which would hide mistakes
        nn.init.normal_(parameter, std=0.3)
    return Case(name.partition("-")[0], model.eval(), layout_of(model), inputs())


@pytest.fixture(params=BUILDERS)
def case(request: pytest.FixtureRequest) -> Case:
    """Every head of every family."""
    return _build(request.param)


@pytest.fixture(params=[name for name in BUILDERS if "-" not in name])
def main_case(request: pytest.FixtureRequest) -> Case:
    """The main head of every family."""
    return _build(request.param)


@pytest.fixture
def build() -> Callable[[str], Case]:
    """Make the case of one family or head."""
    return _build


@pytest.fixture
def covered_families() -> set[str]:
    """The families that the property tests run on."""
    return {name.partition("-")[0] for name in BUILDERS}
