"""Local training on a client."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from raffm_mpi.config.base import Fraction, PositiveInt, SettingsGroup
from raffm_mpi.config.tagged import ByTag


class TrainingSettings(SettingsGroup):
    """Local training on a client: what every optimizer has."""

    optimizer: str
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The step size of the first rounds."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """The optimizer's decay of weights."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """The norm to which a step's gradients are clipped; null: they are not."""
    proximal: Annotated[float, Field(ge=0)] = 0.0
    """FedProx's mu (Li et al., 2020): the weight of mu/2 |w - w_received|^2 in the loss."""
    batch_size: PositiveInt = 64
    """Examples of a step."""
    local_epochs: PositiveInt | None = None
    """Passes of a client over its examples in a round; null: 1, where local_steps is null, too."""
    local_steps: PositiveInt | None = None
    """Steps of a client in a round, in place of local_epochs."""
    learning_rate_decay: Fraction = 1.0
    """The factor by which the learning rate falls every decay_every_rounds rounds."""
    decay_every_rounds: PositiveInt = 5
    """Rounds between two falls of the learning rate."""

    @property
    def optimizer_state(self) -> Literal["adamw", "sgd", "sgd_momentum"]:
        """Which state the optimizer keeps for each parameter."""
        raise NotImplementedError

    def without_effect(self) -> dict[str, str]:
        return {"decay_every_rounds": "goes with learning_rate_decay below 1"} if self.learning_rate_decay == 1 else {}

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSettings:
        if self.local_epochs is not None and self.local_steps is not None:
            raise ValueError("give local_epochs or local_steps, not both (one epoch if both are left out)")
        return self


class AdamWTraining(TrainingSettings):
    """AdamW (Loshchilov and Hutter, 2019), which begins anew on each client in each round."""

    optimizer: Literal["adamw"] = "adamw"
    """A client's optimizer."""

    @property
    def optimizer_state(self) -> Literal["adamw"]:
        return "adamw"


class SGDTraining(TrainingSettings):
    """Stochastic gradient descent, whose momentum begins anew on each client in each round."""

    optimizer: Literal["sgd"] = "sgd"
    """A client's optimizer."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of the last step that the next one keeps."""

    @property
    def optimizer_state(self) -> Literal["sgd", "sgd_momentum"]:
        return "sgd_momentum" if self.momentum else "sgd"


AnyTraining: TypeAlias = Annotated[AdamWTraining | SGDTraining, ByTag("optimizer", "adamw")]
