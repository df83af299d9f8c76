"""What a run says to people: sentences on standard error beside its progress, and numbers as people read them."""

from __future__ import annotations

import math
import sys

MET = "all ranks have met"  # what a supervised run says first
_SENDER = "raffm-mpi: "
_PREFIXES = ("p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E")
_UNITY = _PREFIXES.index("")


def say(sentence: str) -> None:
    """Print a sentence that says whom it is from."""
    print(f"{_SENDER}{sentence}", file=sys.stderr, flush=True)


def said(line: str) -> str | None:
    """The sentence of a line that :func:`say` has printed; None for any other line."""
    return line.removeprefix(_SENDER) if line.startswith(_SENDER) else None


def quantity(value: float, unit: str) -> str:
    """A number with its unit, to three digits; seconds beyond a minute as hours and minutes.

    >>> quantity(15_300_000, "B"), quantity(999, "B"), quantity(999_600, "B"), quantity(0, "J")
    ('15.3 MB', '999 B', '1 MB', '0 J')
    >>> quantity(0.25, "s"), quantity(5400, "s"), quantity(float("nan"), "J")
    ('250 ms', '1 h 30 min', 'unknown')
    """
    if math.isnan(value):
        return "unknown"
    if unit == "s" and value >= 60:
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {seconds} s"
    place = _UNITY
    while abs(value) >= 999.5 and place < len(_PREFIXES) - 1:
        value, place = value / 1000, place + 1
    while 0 < abs(value) < 0.9995 and place > 0:
        value, place = value * 1000, place - 1
    return f"{value:.3g} {_PREFIXES[place]}{unit}"
