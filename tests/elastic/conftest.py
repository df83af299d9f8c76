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


SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
IMAGES = {"image_size": 12, "patch_size": 4, "num_channels": 3}
TEXT = {"vocab_size": 60, "max_position_embeddings": 16, "pad_token_id": 0}
GROUPED = {**SIZES, **TEXT, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6}
T5_SIZES = {
    "vocab_size": 60,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "decoder_start_token_id": 0,
}


def _pixels() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, 12, 12)}


def _tokens() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(2, 60, (2, NUM_TOKENS))}


def _pairs() -> dict[str, torch.Tensor]:
    return {**_tokens(), "decoder_input_ids": torch.randint(2, 60, (2, NUM_TARGETS))}


def _clip() -> Any:
    from transformers import CLIPConfig

    sizes = {**SIZES, "projection_dim": 10}
    text = {**sizes, **TEXT, "hidden_size": 18, "eos_token_id": 59, "bos_token_id": 58}
    return CLIPConfig(
        text_config=text, vision_config={**sizes, **IMAGES, "hidden_size": 24}, projection_dim=10, num_labels=5
    )


def _sam() -> Any:
    from transformers import SamVisionConfig

    return SamVisionConfig(
        hidden_size=24,
        output_channels=7,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=12,
        patch_size=2,
        mlp_dim=40,
        window_size=4,
        global_attn_indexes=[1],
        use_rel_pos=True,
    )


def _ended(eos: int) -> dict[str, torch.Tensor]:
    """Sentences with an end, where T5 classifies and CLIP pools."""
    tokens = torch.randint(2, 59, (2, NUM_TOKENS))
    tokens[:, -1] = eos
    return {"input_ids": tokens}


Builder = tuple[str, Callable[[], Any], Callable[[], dict[str, torch.Tensor]]]

# Of each family, the first is its main head; all property tests run on all of them.
BUILDERS: dict[str, Builder] = {
    "vit": ("ViTForImageClassification", lambda: _config("ViT", **SIZES, **IMAGES), _pixels),
    "deit": ("DeiTForImageClassification", lambda: _config("DeiT", **SIZES, **IMAGES), _pixels),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", lambda: _config("DeiT", **SIZES, **IMAGES), _pixels),
    "dinov2": ("Dinov2ForImageClassification", lambda: _config("Dinov2", mlp_ratio=2, **SIZES, **IMAGES), _pixels),
    "dinov2-swiglu": (
        "Dinov2ForImageClassification",
        lambda: _config("Dinov2", mlp_ratio=2, use_swiglu_ffn=True, **SIZES, **IMAGES),
        _pixels,
    ),
    "clip": ("CLIPModel", _clip, lambda: {**_ended(59), **_pixels()}),
    "clip-image": ("CLIPForImageClassification", _clip, _pixels),
    "sam_vision_model": ("SamVisionModel", _sam, _pixels),
    "sam_vision_model-image": ("EncoderForImageClassification", _sam, _pixels),
    "bert": ("BertForSequenceClassification", lambda: _config("Bert", **SIZES, **TEXT), _tokens),
    "bert-qa": ("BertForQuestionAnswering", lambda: _config("Bert", num_labels=2, **SIZES, **TEXT), _tokens),
    "roberta": ("RobertaForSequenceClassification", lambda: _config("Roberta", **SIZES, **TEXT), _tokens),
    "roberta-qa": ("RobertaForQuestionAnswering", lambda: _config("Roberta", num_labels=2, **SIZES, **TEXT), _tokens),
    "distilbert": (
        "DistilBertForSequenceClassification",
        lambda: _config("DistilBert", dim=24, n_layers=2, n_heads=3, hidden_dim=40, **TEXT),
        _tokens,
    ),
    "distilbert-qa": (
        "DistilBertForQuestionAnswering",
        lambda: _config("DistilBert", num_labels=2, dim=24, n_layers=2, n_heads=3, hidden_dim=40, **TEXT),
        _tokens,
    ),
    "t5": ("T5ForConditionalGeneration", lambda: _config("T5", **T5_SIZES), _pairs),
    "t5-gated-untied": (
        "T5ForConditionalGeneration",
        lambda: _config("T5", feed_forward_proj="gated-gelu", tie_word_embeddings=False, **T5_SIZES),
        _pairs,
    ),
    "t5-classification": ("T5ForSequenceClassification", lambda: _config("T5", **T5_SIZES), lambda: _ended(1)),
    "t5-qa": ("T5ForQuestionAnswering", lambda: _config("T5", num_labels=2, **T5_SIZES), _tokens),
    "llama": ("LlamaForCausalLM", lambda: _config("Llama", **GROUPED), _tokens),
    "llama-tied": ("LlamaForCausalLM", lambda: _config("Llama", tie_word_embeddings=True, **GROUPED), _tokens),
    "llama-classification": ("LlamaForSequenceClassification", lambda: _config("Llama", **GROUPED), _tokens),
    "llama-qa": ("LlamaForQuestionAnswering", lambda: _config("Llama", num_labels=2, **GROUPED), _tokens),
    "mistral": ("MistralForCausalLM", lambda: _config("Mistral", **GROUPED), _tokens),
    "qwen2": ("Qwen2ForCausalLM", lambda: _config("Qwen2", **GROUPED | {"hidden_size": 24, "head_dim": 6}), _tokens),
    "qwen3": ("Qwen3ForCausalLM", lambda: _config("Qwen3", **GROUPED), _tokens),
    "opt": ("OPTForCausalLM", lambda: _config("OPT", **_opt()), _tokens),
    "opt-classification": ("OPTForSequenceClassification", lambda: _config("OPT", **_opt()), _tokens),
    "opt-qa": ("OPTForQuestionAnswering", lambda: _config("OPT", num_labels=2, **_opt()), _tokens),
    "gpt2": ("GPT2LMHeadModel", lambda: _config("GPT2", **_gpt2()), _tokens),
    "gpt2-classification": ("GPT2ForSequenceClassification", lambda: _config("GPT2", **_gpt2()), _tokens),
    "gpt2-qa": ("GPT2ForQuestionAnswering", lambda: _config("GPT2", num_labels=2, **_gpt2()), _tokens),
}


def _opt() -> dict[str, int]:
    return {**SIZES, **TEXT, "ffn_dim": 40, "word_embed_proj_dim": 24, "bos_token_id": 58, "eos_token_id": 59}


def _gpt2() -> dict[str, int]:
    return {
        "vocab_size": 60,
        "n_positions": 16,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 3,
        "n_inner": 40,
        "pad_token_id": 0,
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
