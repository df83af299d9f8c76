"""The clients' devices, and when clients can be reached (docs/devices.md)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from raffm_mpi.config.base import NameOrShares, PathName, Seconds, SettingsGroup
from raffm_mpi.config.tagged import ByTag


class AvailabilitySettings(SettingsGroup):
    """When clients can be reached, in virtual time."""

    kind: str


class AlwaysAvailable(AvailabilitySettings):
    """At all times."""

    kind: Literal["always"] = "always"
    """When clients can be reached."""


class OnOffAvailability(AvailabilitySettings):
    """In turns, each client from a moment of its own."""

    kind: Literal["on_off"] = "on_off"
    """When clients can be reached."""
    on_s: Seconds = 14400.0
    """Virtual seconds for which a client can be reached."""
    off_s: Seconds = 14400.0
    """Virtual seconds for which it then cannot."""


class DailyAvailability(AvailabilitySettings):
    """Once a day, as phones that charge at night."""

    kind: Literal["daily"] = "daily"
    """When clients can be reached."""
    on_s: Annotated[float, Field(gt=0, le=86400)] = 28800.0
    """Virtual seconds of each day for which a client can be reached."""
    start_h: Annotated[float, Field(ge=0, lt=24)] = 22.0
    """The hour of the day at which that begins."""
    spread_h: Annotated[float, Field(ge=0)] = 2.0
    """The standard deviation of that hour over the clients, in hours."""


class FileAvailability(AvailabilitySettings):
    """As a file of traces says, which repeats; client k follows trace k modulo their number."""

    kind: Literal["file"] = "file"
    """When clients can be reached."""
    path: PathName
    """A CSV file of intervals with the columns trace, start_s and end_s, in virtual seconds."""


AnyAvailability: TypeAlias = Annotated[
    AlwaysAvailable | OnOffAvailability | DailyAvailability | FileAvailability, ByTag("kind", "always")
]


class DeviceSettings(SettingsGroup):
    """The clients' devices, and what the virtual clock does with them; all seconds here are virtual."""

    population: NameOrShares
    """A population (xsmall, small, medium, large, xlarge, or one of your file), or the share of each device."""
    profiles: PathName | None = None
    """A YAML file with devices and populations of yours; null: those of the package alone."""
    deadline_s: Seconds | None = None
    """Virtual seconds after which a round takes no update; null: it waits for all."""
    over_selection: Annotated[float, Field(ge=0)] = 0.0
    """How many more clients are asked than updates are wanted, as a share: the first to be ready are taken."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The probability that a client leaves in the middle of a round."""
    availability: AnyAvailability = AlwaysAvailable()
    """When clients can be reached."""
