"""The model families that have a table, by the ``model_type`` of their transformers config."""

from typing import Any

from torch import nn

from raffm_mpi.elastic.families.bert import BERT
from raffm_mpi.elastic.families.vit import VIT
from raffm_mpi.elastic.table import Family, ModelLayout, bind

FAMILIES: dict[str, Family] = {"bert": BERT, "vit": VIT}


def family_of(model_type: str) -> Family:
    """The family of a ``model_type``; ValueError with the known ones if it has no table."""
    if model_type not in FAMILIES:
        raise ValueError(f"model family '{model_type}' has no table; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def layout_of(model: nn.Module) -> ModelLayout:
    """The layout of a transformers model, by its config's ``model_type``."""
    config: Any = model.config
    return bind(family_of(config.model_type), model)
