"""From a YAML file and ``key=value`` overrides to settings, or to a sentence for each mistake."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from raffm_mpi.config.base import FROM_LOG
from raffm_mpi.config.moved import upgraded
from raffm_mpi.config.sentences import sentences
from raffm_mpi.config.settings import Settings
from raffm_mpi.config.strict_yaml import DEEPEST, parse_yaml, read_yaml
from raffm_mpi.errors import UserMistake

Group = TypeVar("Group", bound=BaseModel)


def load_settings(path: str | Path, overrides: Sequence[str] | None = None) -> Settings:
    """Read a YAML config and apply ``key=value`` overrides (dotted keys, YAML values).

    Raises UserMistake with one sentence for each mistake, all at once.
    """
    return check_settings(apply_overrides(read_yaml(Path(path), f"config '{path}'"), overrides or []), str(path))


def check_settings(values: Mapping[str, Any], source: str) -> Settings:
    """The values as settings; raises UserMistake with one sentence for each mistake, which names their ``source``."""
    return check(Settings, values, source)


def check_logged(values: Mapping[str, Any], overrides: Sequence[str], source: str) -> Settings:
    """The settings that a log of this or an older release holds, with overrides; raises UserMistake as the others.

    A log has every option written out. What had no effect in an older release is left out.
    """
    given = apply_overrides(upgraded(copy.deepcopy(dict(values))), overrides)
    return check(Settings, given, source, FROM_LOG)


def check(model: type[Group], values: Mapping[str, Any], source: str, context: Any = None, remedy: str = "") -> Group:
    """The values as a group; raises UserMistake with one sentence for each mistake, which names their ``source``.

    ``remedy`` ends the sentence of what is missing. ``context`` is pydantic's, see :class:`SettingsGroup`.
    """
    try:
        return model.model_validate(values, context=context)
    except ValidationError as error:
        raise UserMistake("\n".join(sentences(error, model, source, remedy))) from None


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The values with ``key=value`` overrides applied, in place; UserMistake for one that is not of that form."""
    for override in overrides:
        _apply_override(values, override)
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    *parents, last = key.split(".")
    if not separator or "" in (*parents, last):
        raise UserMistake(f"override '{override}' is not of the form key=value")
    if len(parents) > DEEPEST:
        raise UserMistake(f"override '{override}': it is nested deeper than {DEEPEST} levels")
    value = parse_yaml(text, f"override '{override}': the value")
    for parent in parents:
        below = values.setdefault(parent, {})
        if below is None:
            below = values[parent] = {}
        if not isinstance(below, dict):
            raise UserMistake(f"override '{override}': '{parent}' is a value, not a group of settings")
        values = below
    values[last] = value
