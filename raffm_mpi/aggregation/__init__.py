"""How clients' results become the next global model, by name; a new way is an ``Aggregator`` and a line here."""

from __future__ import annotations

from raffm_mpi.aggregation.base import Aggregator, Gathered
from raffm_mpi.aggregation.lora import FlexLoRA, HetLoRA, Stacking
from raffm_mpi.aggregation.mean import Mean, Official
from raffm_mpi.config import Settings
from raffm_mpi.elastic.table import ModelLayout

__all__ = ["Aggregator", "Gathered", "make_aggregator"]

_OF_LAYOUT: dict[str, type[Mean | Official | HetLoRA | FlexLoRA]] = {
    "mean": Mean,
    "official": Official,
    "hetlora": HetLoRA,
    "flexlora": FlexLoRA,
}


def make_aggregator(settings: Settings, layout: ModelLayout) -> Aggregator:
    """The aggregator that the settings ask for, of one model."""
    kind, lora = settings.aggregation.kind, settings.model.lora
    if kind == "stacking":
        assert lora is not None  # which the settings hold
        return Stacking(layout, lora.alpha / lora.rank, settings.seed)
    return _OF_LAYOUT[kind](layout)
