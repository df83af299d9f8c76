"""How clients' updates become the next global model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from raffm_mpi.config.base import SettingsGroup
from raffm_mpi.config.tagged import ByTag


class AggregationSettings(SettingsGroup):
    """A way to aggregate: whether it is one of adapters alone, and whether a server optimizer can step on it."""

    kind: str
    needs_adapters: ClassVar[bool] = False
    is_mean: ClassVar[bool] = False


class MeanAggregation(AggregationSettings):
    """Each entry's mean over the clients that hold it; what nobody holds keeps its value."""

    is_mean = True
    kind: Literal["mean"] = "mean"
    """How updates are aggregated."""


class OfficialAggregation(AggregationSettings):
    """The arithmetic of the paper's official code, which divides by all clients and so dilutes what few hold."""

    kind: Literal["official"] = "official"
    """How updates are aggregated."""


class HetLoRAAggregation(AggregationSettings):
    """HetLoRA (Cho et al., 2024): zero padding, weights by the norm of what adapters do."""

    needs_adapters = True
    kind: Literal["hetlora"] = "hetlora"
    """How updates are aggregated."""


class FlexLoRAAggregation(AggregationSettings):
    """FlexLoRA (Bai et al., 2024): the mean of the adapters' products, decomposed again by the server."""

    needs_adapters = True
    kind: Literal["flexlora"] = "flexlora"
    """How updates are aggregated."""


class StackingAggregation(AggregationSettings):
    """FLoRA (Wang et al., 2024): the mean of the products goes into the base, and adapters begin anew."""

    needs_adapters = True
    kind: Literal["stacking"] = "stacking"
    """How updates are aggregated."""


AnyAggregation: TypeAlias = Annotated[
    MeanAggregation | OfficialAggregation | HetLoRAAggregation | FlexLoRAAggregation | StackingAggregation,
    ByTag("kind", "mean"),
]
