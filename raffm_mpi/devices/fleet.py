"""Who has which device: the share of each, dealt to the clients by the seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raffm_mpi.config import DeviceSettings, FileAvailability
from raffm_mpi.devices.availability import Availability, make_availability
from raffm_mpi.devices.profiles import Profile, population, read_profiles
from raffm_mpi.seeds import generator


@dataclass(frozen=True)
class Fleet:
    """The devices of all clients."""

    settings: DeviceSettings
    profiles: Mapping[str, Profile]  # by name
    of_client: np.ndarray  # int16 [num_clients]: whose profile, counted in their order
    availability: Availability
    seed: int

    @property
    def deadline_s(self) -> float:
        """How long a round waits for clients; inf without an end."""
        return float("inf") if self.settings.deadline_s is None else self.settings.deadline_s

    def of(self, client: int) -> Profile:
        """A client's device."""
        return list(self.profiles.values())[int(self.of_client[client])]

    def numbers(self, name: str, clients: np.ndarray) -> np.ndarray:
        """One number of the profiles of some clients: float64 ``[clients]``."""
        numbers = np.array([getattr(profile, name) for profile in self.profiles.values()], np.float64)
        return np.asarray(numbers[self.of_client[clients]])

    @property
    def num_clients(self) -> np.ndarray:
        """The clients of each profile: int64 ``[profiles]``."""
        return np.bincount(self.of_client, minlength=len(self.profiles))

    def fingerprint(self) -> str:
        """SHA-256 of all that the files behind the settings say."""
        numbers = {name: profile.model_dump(exclude={"sources"}) for name, profile in self.profiles.items()}
        availability = self.settings.availability
        traces = Path(availability.path).read_bytes() if isinstance(availability, FileAvailability) else b""
        content = json.dumps(numbers, sort_keys=True).encode() + traces
        return hashlib.sha256(content).hexdigest()


def make_fleet(settings: DeviceSettings, num_clients: int, seed: int) -> Fleet:
    """The devices that the settings describe; raises UserMistake for what they name and nobody knows."""
    known = read_profiles(settings.profiles)
    shares = population(settings.population, known)
    of_client = np.repeat(np.arange(len(shares), dtype=np.int16), counts(list(shares.values()), num_clients))
    generator(seed, "devices").shuffle(of_client)
    profiles = {name: known.profiles[name] for name in shares}
    return Fleet(settings, profiles, of_client, make_availability(settings.availability, num_clients, seed), seed)


def counts(shares: list[float], total: int) -> np.ndarray:
    """Whole numbers that add up to a total, as near to the shares as can be: int64 ``[shares]``.

    The largest remainders are rounded up.

    >>> counts([0.4, 0.4, 0.2], 12)
    array([5, 5, 2])
    """
    exact = np.array(shares) * total
    whole = np.floor(exact + 1e-9).astype(np.int64)
    for place in np.argsort(whole - exact, kind="stable")[: total - whole.sum()]:
        whole[place] += 1
    return whole
