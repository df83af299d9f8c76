"""Device profiles: what a simulated client's device can hold, compute, send and draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from raffm_mpi.config import SettingsGroup, Shares, check, nearest, read_yaml, write_yaml
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
        write_text(path, write_yaml(values))
    except OSError as error:
        raise UserMistake(f"profile '{path}' cannot be written: {reason(error)}") from None


def population(wanted: str | Mapping[str, float], known: Profiles) -> dict[str, float]:
    """The share of each device, in the order of the file; raises UserMistake for an unknown population or device."""
    if isinstance(wanted, str):
        if wanted not in known.populations:
            raise UserMistake(f"devices.population: unknown population '{wanted}'{nearest(wanted, known.populations)}")
        wanted = known.populations[wanted]
    for name in wanted:
        if name not in known.profiles:
            raise UserMistake(f"devices.population: unknown device '{name}'{nearest(name, known.profiles)}")
    return {name: wanted[name] for name in known.profiles if wanted.get(name)}


def _read(path: Path) -> Profiles:
    place = f"devices.profiles '{path}'"
    return check(Profiles, read_yaml(path, place), place)
