"""Which transformer is trained, and whether clients train all of it or adapters."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from raffm_mpi.config.base import PathName, PositiveInt, SettingsGroup


class LoRASettings(SettingsGroup):
    """LoRA (Hu et al., 2021): clients train adapters and the task head, and the base stays as it is."""

    rank: PositiveInt = 8
    """The full rank of every adapter."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The adapters' products are scaled by alpha / rank; that quotient stays where a client's rank is smaller."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of an adapter's inputs that is dropped in training."""
    targets: Annotated[list[str], Field(min_length=1)] | None = None
    """The linear layers that get adapters, by full path or its end; null: those of attention."""
    ranks: list[PositiveInt] = Field(default=[])
    """Ranks of which each client keeps one, drawn by the seed; empty: all clients have the full rank."""

    @model_validator(mode="after")
    def _ranks_are_within_rank(self) -> LoRASettings:
        above = [rank for rank in self.ranks if rank > self.rank]
        if above:
            raise ValueError(f"ranks has {above[0]}, which is more than rank {self.rank}")
        return self


class ModelSettings(SettingsGroup):
    """The transformer: pretrained, by ``name``, or from scratch, by ``family`` and ``config``."""

    name: PathName | None = None
    """A name on the Hugging Face hub or a folder with weights."""
    family: str | None = None
    """A model family (vit, bert, llama, …), to be built from scratch."""
    config: dict[str, Any] = Field(default={})
    """Keys of the model's transformers config, such as hidden_size; with ``name`` they replace its own."""
    lora: LoRASettings | None = None
    """Adapters, which are then what clients train and exchange; null: they train the whole model."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelSettings:
        if (self.name is None) == (self.family is None):
            raise ValueError(
                "give either name (a hub name or folder with weights) or family (with config), not both or none"
            )
        return self
