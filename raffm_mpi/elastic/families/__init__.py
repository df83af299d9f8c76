"""The model families that have a table, by the ``model_type`` of their transformers config."""

from typing import Any

from torch import nn

from raffm_mpi.elastic.binding import bind
from raffm_mpi.elastic.families.bert import BERT, ROBERTA
from raffm_mpi.elastic.families.clip import CLIP
from raffm_mpi.elastic.families.distilbert import DISTILBERT
from raffm_mpi.elastic.families.gpt2 import GPT2
from raffm_mpi.elastic.families.llama import LLAMA
from raffm_mpi.elastic.families.opt import OPT
from raffm_mpi.elastic.families.sam import SAM_VISION
from raffm_mpi.elastic.families.t5 import T5
from raffm_mpi.elastic.families.vit import DEIT, DINOV2, VIT
from raffm_mpi.elastic.table import Family, ModelLayout
from raffm_mpi.errors import UserMistake

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "clip": CLIP,
    "deit": DEIT,
    "dinov2": DINOV2,
    "distilbert": DISTILBERT,
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "opt": OPT,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "roberta": ROBERTA,
    "sam_vision_model": SAM_VISION,
    "t5": T5,
    "vit": VIT,
}


def family_of(model_type: str) -> Family:
    """The family of a ``model_type``; UserMistake with the known ones if it has no table."""
    if model_type not in FAMILIES:
        raise UserMistake(f"model family '{model_type}' has no table; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def layout_of(model: nn.Module) -> ModelLayout:
    """The layout of a transformers model, by its config's ``model_type``."""
    config: Any = model.config
    return bind(family_of(config.model_type), model)
