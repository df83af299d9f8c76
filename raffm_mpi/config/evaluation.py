"""When and where models are evaluated, and which."""

from __future__ import annotations

from typing import Literal

from raffm_mpi.config.base import PositiveInt, SettingsGroup


class EvaluationSettings(SettingsGroup):
    """When and where models are evaluated, and which."""

    every: PositiveInt = 1
    """Rounds between two evaluations on the validation split."""
    placement: Literal["auto", "server", "groups"] = "auto"
    """Who evaluates: the server while groups train, or the groups between rounds; the scores are the same."""
    batch_size: PositiveInt = 256
    """Examples of a batch."""
    submodels: Literal["never", "last", "always"] = "last"
    """When sub-models are evaluated beside the full model: never, after the last round, or at every evaluation."""
    personal: bool = True
    """Whether the last model is scored on each client's share of the test split, too."""
