"""The server's step on the mean update."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from raffm_mpi.config.base import SettingsGroup
from raffm_mpi.config.tagged import ByTag

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class ServerSettings(SettingsGroup):
    """A server optimizer and what it is set by; the formulas stand in aggregation/server_optimizer.py."""

    optimizer: str

    @property
    def numbers(self) -> dict[str, float]:
        """What the optimizer is set by, by name."""
        return self.model_dump(exclude={"optimizer"})


class NoServerOptimizer(ServerSettings):
    """The mean update is added as it is."""

    optimizer: Literal["none"] = "none"
    """The server's optimizer."""


class FedAvgMServer(ServerSettings):
    """FedAvgM (Hsu, Qi and Brown, 2019): momentum."""

    optimizer: Literal["fedavgm"] = "fedavgm"
    """The server's optimizer."""
    learning_rate: Rate = 1.0
    """The server's step size."""
    momentum: Decay = 0.9
    """The share of the last step that the next one keeps."""


class FedAdagradServer(ServerSettings):
    """FedAdagrad (Reddi et al., 2021): steps that shrink with the sum of squared updates."""

    optimizer: Literal["fedadagrad"] = "fedadagrad"
    """The server's optimizer."""
    learning_rate: Rate = 0.01
    """The server's step size."""
    tau: Rate = 1e-3
    """The least that steps are divided by: the larger, the less adaptive."""


class _AdaptiveServer(ServerSettings):
    """What the optimizers with two moments have."""

    learning_rate: Rate = 0.01
    """The server's step size."""
    beta1: Decay = 0.9
    """The share of the first moment that stays from round to round."""
    beta2: Decay = 0.99
    """The share of the second moment that stays from round to round."""
    tau: Rate = 1e-3
    """The least that steps are divided by: the larger, the less adaptive."""


class FedAdamServer(_AdaptiveServer):
    """FedAdam (Reddi et al., 2021)."""

    optimizer: Literal["fedadam"] = "fedadam"
    """The server's optimizer."""


class FedYogiServer(_AdaptiveServer):
    """FedYogi (Reddi et al., 2021): as FedAdam, with a second moment that grows more slowly."""

    optimizer: Literal["fedyogi"] = "fedyogi"
    """The server's optimizer."""


AnyServer: TypeAlias = Annotated[
    NoServerOptimizer | FedAvgMServer | FedAdagradServer | FedAdamServer | FedYogiServer, ByTag("optimizer", "none")
]
