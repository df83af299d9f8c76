"""Sweeps: overrides with several values; each combination of values is a run with a folder of its own."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raffm_mpi.errors import UserMistake
from raffm_mpi.files import replacing

TABLE = "sweep.csv"  # in the sweep's folder: a line for each point with its folder and its values


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its overrides, and those of them that differ between points."""

    overrides: tuple[str, ...]
    varied: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A name for its folder; empty where nothing varies.

        >>> Point(("seed=1", "model.name=a/b"), ("seed=1", "model.name=a/b")).name
        'seed=1_model.name=a-b'
        """
        return re.sub(r"[^\w.=+-]+", "-", "_".join(self.varied)).strip("-")


def split_values(text: str) -> list[str]:
    """The values of a list without brackets; a YAML list, a mapping or a quoted text is one value.

    >>> split_values("0,1,2"), split_values("[0, 1]"), split_values("{name: raffm, salience: all}")
    (['0', '1', '2'], ['[0, 1]'], ['{name: raffm, salience: all}'])
    >>> split_values("[0, 1],[2]"), split_values("'a,b'")
    (['[0, 1]', '[2]'], ["'a,b'"])
    """
    values, depth = [""], 0
    for part in re.split(r"""("[^"]*"|'[^']*'|[\[\]{},])""", text):
        depth += (part in ("[", "{")) - (part in ("]", "}"))
        if part == "," and depth == 0:
            values.append("")
        else:
            values[-1] += part
    return [value.strip() for value in values]


def expand(overrides: Sequence[str]) -> list[Point]:
    """Every combination of the overrides' values; raises UserMistake for an empty value or two points of one name.

    >>> [point.overrides for point in expand(["seed=0,1", "output=runs/x"])]
    [('seed=0', 'output=runs/x'), ('seed=1', 'output=runs/x')]
    """
    choices, varied = [], []
    for override in overrides:
        key, equals, text = override.partition("=")
        values = split_values(text)
        if "" in values and len(values) > 1:
            raise UserMistake(f"override '{override}': a value of the sweep is empty")
        choices.append([f"{key}{equals}{value}" for value in values])
        varied.append(len(values) > 1)
    points = [
        Point(combination, tuple(itertools.compress(combination, varied)))
        for combination in itertools.product(*choices)
    ]
    names = [point.name for point in points]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserMistake(f"two points of the sweep would be in one folder '{twice}'; give each value once")
    return points


def write_table(folder: Path, points: Sequence[Point]) -> Path:
    """Write which point is in which folder, to be read by ``pandas.read_csv``."""
    keys = [override.partition("=")[0] for override in points[0].varied]
    with replacing(folder / TABLE) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *keys])
        for point in points:
            writer.writerow([point.name, *(override.partition("=")[2] for override in point.varied)])
    return folder / TABLE
