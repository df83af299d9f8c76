"""Device profiles: what a simulated client's device can hold, compute, send and draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from raffm_mpi.config import SettingsGroup, Shares
from raffm_mpi.errors import UserMistake, reason
from raffm_mpi.files import write_text

Positive = Annotated[float, Field(gt=0)]
Watts = Annotated[float, Field(ge=0)]

OWN = Path(__file__).with_name("profiles.yaml")


class Profile(SettingsGroup):
    """One kind of device; ``sources`` say where a number is from, by the number's name."""

    memory_bytes: Positive  # that training may take
    flops_per_s: Positive  # sustained, of training
    downlink_bytes_per_s: Positive
    uplink_bytes_per_s: Positive
    compute_w: Watts
    transfer_w: Watts  # sending or receiving
    idle_w: Watts  # waiting for the end of the round
    sources: dict[str, str] = Field(default={})


DEVICE_NUMBERS = tuple(name for name in Profile.model_fields if name != "sources")


class Profiles(SettingsGroup):
    """A file of profiles and populations."""

    profiles: dict[str, Profile] = Field(default={})
    populations: dict[str, Shares] = Field(default={})


def read_profiles(path: str | None = None) -> Profiles:
    """The package's profiles and populations, and those of a file, which go first.

    Raises UserMistake with one sentence a mistake.
    """
    own = _read(OWN)
    if path is None:
        return own
    given = _read(Path(path))
    return Profiles(profiles={**own.profiles, **given.profiles}, populations={**own.populations, **given.populations})


def write_profile(path: Path, name: str, profile: Profile) -> None:
    """Write a file with one profile, whole or not at all; raises UserMistake where it cannot be written."""
    values = {"profiles": {name: profile.model_dump()}}
    try:
        write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UserMistake(f"profile '{path}' cannot be written: {reason(error)}") from None


def population(wanted: str | Mapping[str, float], known: Profiles) -> dict[str, float]:
    """The share of each device, in the order of the file; raises UserMistake for an unknown population or device."""
    if isinstance(wanted, str):
        if wanted not in known.populations:
            raise UserMistake(
                f"devices.population: unknown population '{wanted}'; known: {', '.join(known.populations)}"
            )
        wanted = known.populations[wanted]
    for name in wanted:
        if name not in known.profiles:
            raise UserMistake(f"devices.population: unknown device '{name}'; known: {', '.join(known.profiles)}")
    return {name: wanted[name] for name in known.profiles if wanted.get(name)}


def _read(path: Path) -> Profiles:
    place = f"devices.profiles '{path}'"
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserMistake(f"{place} cannot be read: {reason(error)}") from None
    except yaml.YAMLError as error:
        raise UserMistake(f"{place} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return Profiles.model_validate(values or {})
    except ValidationError as error:
        raise UserMistake("\n".join(f"{place}: {_sentence(item)}" for item in error.errors())) from None


def _sentence(item: Any) -> str:
    """One mistake of a file, with its place and value."""
    where = ".".join(str(part) for part in item["loc"]) or "the file"
    if item["type"] == "missing":
        return f"{where} is missing"
    if item["type"] == "extra_forbidden":
        return f"{where} is unknown; known: {', '.join(Profile.model_fields)}"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    return f"{where} is {item['input']!r}, {item['msg'][0].lower()}{item['msg'][1:]}"
