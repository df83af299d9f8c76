"""What a run would ask of the machine: from a config, from overrides alone, or by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raffm_mpi.config import Settings, apply_overrides, check_settings, load_settings
from raffm_mpi.files import nearest_existing

# What settings cannot be without; the model stands for none.
_PLACEHOLDERS: dict[str, Any] = {"output": ".", "model": {"family": "vit"}, "federation": {"num_clients": 1}}


@dataclass(frozen=True)
class Intent:
    """The settings, and whether their model is one that somebody asked for."""

    settings: Settings
    has_model: bool = True

    @property
    def place(self) -> Path:
        """The output folder, or what there is of the path to it."""
        return nearest_existing(Path(self.settings.output))


def load_intent(config: str | None, overrides: Sequence[str] = ()) -> Intent:
    """The intent of a config with overrides, or of overrides alone; raises UserMistake as :func:`load_settings`.

    >>> load_intent(None, ["compute.threads_per_group=4"]).settings.compute.threads_per_group
    4
    """
    if config is not None:
        return Intent(load_settings(config, list(overrides)))
    given = apply_overrides({}, overrides)
    settings = check_settings({**_PLACEHOLDERS, **given}, "overrides")
    return Intent(settings, has_model="model" in given)
