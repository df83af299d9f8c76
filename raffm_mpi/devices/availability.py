"""When clients can be reached, in virtual time: always, in turns, once a day, or as a file of traces says."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from raffm_mpi.config import AvailabilitySettings, DailyAvailability, FileAvailability, OnOffAvailability
from raffm_mpi.errors import UserMistake, reason
from raffm_mpi.seeds import generator

DAY_S = 86400.0
_COLUMNS = ("trace", "start_s", "end_s")


class Availability(ABC):
    """Who can be reached when; all times are seconds of virtual time."""

    @abstractmethod
    def until(self, now_s: float) -> np.ndarray:
        """When each client goes away: float64 ``[num_clients]``; ``now_s`` for those away, inf for who stays."""

    @abstractmethod
    def next_s(self, now_s: float) -> float:
        """The first moment from ``now_s`` on at which some client can be reached."""


class Always(Availability):
    """Every client, at all times."""

    def __init__(self, num_clients: int) -> None:
        self._until = np.full(num_clients, np.inf)

    def until(self, now_s: float) -> np.ndarray:
        return self._until

    def next_s(self, now_s: float) -> float:
        return now_s


class Periodic(Availability):
    """Each client for ``on_s`` of every ``period_s``, from a moment of its own: ``starts_s`` ``[num_clients]``."""

    def __init__(self, starts_s: np.ndarray, on_s: float, period_s: float) -> None:
        self._starts_s = starts_s
        self._on_s = on_s
        self._period_s = period_s

    def until(self, now_s: float) -> np.ndarray:
        since_s = (now_s - self._starts_s) % self._period_s
        return np.asarray(now_s + np.maximum(self._on_s - since_s, 0))

    def next_s(self, now_s: float) -> float:
        since_s = (now_s - self._starts_s) % self._period_s
        wait_s = np.where(since_s < self._on_s, 0, self._period_s - since_s).min()
        return now_s if wait_s == 0 else _after(now_s + wait_s)


class Traces(Availability):
    """Intervals of a file, repeated after the last of them; client k follows trace k modulo their number."""

    def __init__(self, trace: np.ndarray, start_s: np.ndarray, end_s: np.ndarray, num_clients: int) -> None:
        self._trace = trace  # [intervals], numbered from 0
        self._start_s = start_s
        self._end_s = end_s
        self._of_client = np.arange(num_clients) % (trace.max() + 1)
        self._period_s = end_s.max()

    def until(self, now_s: float) -> np.ndarray:
        place_s = now_s % self._period_s
        left_s = np.zeros(self._trace.max() + 1)
        on = (self._start_s <= place_s) & (place_s < self._end_s)
        np.maximum.at(left_s, self._trace[on], self._end_s[on] - place_s)
        return np.asarray(now_s + left_s[self._of_client])

    def next_s(self, now_s: float) -> float:
        followed = self._trace < len(self._of_client)
        starts_s, ends_s = self._start_s[followed], self._end_s[followed]
        place_s = now_s % self._period_s
        if ((starts_s <= place_s) & (place_s < ends_s)).any():
            return now_s
        wait_s = ((starts_s - place_s) % self._period_s).min()
        return _after(now_s + wait_s)


def _after(moment_s: float) -> float:
    """A moment that rounding cannot put before the one that is meant: the next whole millisecond but one."""
    return (math.ceil(moment_s * 1000) + 1) / 1000


def make_availability(settings: AvailabilitySettings, num_clients: int, seed: int) -> Availability:
    """What the settings describe; raises UserMistake for a file that does not say it."""
    draws = generator(seed, "availability")
    if isinstance(settings, OnOffAvailability):
        period_s = settings.on_s + settings.off_s
        return Periodic(draws.random(num_clients) * period_s, settings.on_s, period_s)
    if isinstance(settings, DailyAvailability):
        hours = settings.start_h + settings.spread_h * draws.standard_normal(num_clients)
        return Periodic(hours * 3600 % DAY_S, settings.on_s, DAY_S)
    if isinstance(settings, FileAvailability):
        return _read_traces(Path(settings.path), num_clients)
    return Always(num_clients)


def _read_traces(path: Path, num_clients: int) -> Traces:
    import pandas as pd  # which a run without such a file does not need

    place = f"devices.availability.path '{path}'"
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserMistake(f"{place} cannot be read: {reason(error)}") from None
    missing = [name for name in _COLUMNS if name not in table]
    if missing or not len(table):
        what = f"has no column {', '.join(missing)}" if missing else "has no interval"
        raise UserMistake(f"{place} {what}; needed are {', '.join(_COLUMNS)} and a row or more")
    numbers = table[list(_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    bad = numbers.isna().any(axis=1) | (numbers["start_s"] < 0) | ~(numbers["end_s"] > numbers["start_s"])
    bad |= ~np.isfinite(numbers["end_s"])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        shown = ",".join(str(value) for value in table[list(_COLUMNS)].iloc[row])
        raise UserMistake(f"{place}: row {row + 2} is {shown}; needed are numbers with 0 <= start_s < end_s")
    _, trace = np.unique(numbers["trace"], return_inverse=True)
    return Traces(trace, numbers["start_s"].to_numpy(float), numbers["end_s"].to_numpy(float), num_clients)
