"""Read the runs of a comparison, and group those that differ in nothing but their seed."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from raffm_mpi.analysis.quantities import COSTS, best, costs, main_split, reaches, scores
from raffm_mpi.errors import UserMistake
from raffm_mpi.log import GLOBAL_MODEL, Run, open_run
from raffm_mpi.log.schema import log_file

SWEEP = "sweep.csv"  # which raffm-mpi launch writes into the folder of a sweep
_ABSENT = object()  # of a setting that a method does not have
# Settings in which runs of one group may differ.
_FREE = ("seed", "output", "resume", "data.cache", "reliability.", "log.")


@dataclass(frozen=True)
class Result:
    """What a comparison needs to know of a run."""

    path: Path
    settings: Mapping[str, Any]  # by their dotted names, but for those in which runs of one group may differ
    seed: int
    status: str
    task: str
    metric: str
    split: str
    curve: pd.DataFrame  # scores of the full model with what they had cost, see quantities.scores
    spent: Mapping[str, float]  # in all, by the names of COSTS
    full: float  # last score of the full model
    smallest: float  # last score of the smallest evaluated sub-model; NaN where only the full model was evaluated
    share: float  # parameters of that sub-model, as a share of the full model's

    @classmethod
    def of(cls, path: str | Path, split: str | None = None) -> Result:
        """Read a run; raises UserMistake as :func:`raffm_mpi.log.open_run`."""
        with open_run(path) as run:
            own = split or main_split(run)
            curve = scores(run, own)
            smallest, share = _smallest(run, own)
            return cls(
                path=Path(path),
                settings={name: value for name, value in run.settings.items() if not name.startswith(_FREE)},
                seed=int(run.config["seed"]),
                status=run.status,
                task=str(run.attributes["task"]),
                metric=run.main_metric,
                split=own,
                curve=curve,
                spent={cost: float(costs(run)[cost].iloc[-1]) for cost in COSTS},
                full=float(curve["score"].iloc[-1]) if len(curve) else float("nan"),
                smallest=smallest,
                share=share,
            )

    def cost_to(self, target: float, cost: str) -> float:
        """What had been spent when the target was first reached; NaN where it was not."""
        reached = self.curve[reaches(self.metric, self.curve["score"], target)]
        return float(reached[cost].iloc[0]) if len(reached) else float("nan")

    def score_at(self, budget: float, cost: str) -> float:
        """The last score within a budget; NaN without one."""
        within = self.curve[self.curve[cost] <= budget]
        return float(within["score"].iloc[-1]) if len(within) else float("nan")

    def best(self) -> float:
        """The best score of the run; NaN without one."""
        return float(best(self.metric, self.curve["score"]))


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in their seed alone, in its order; ``name`` says what sets them apart from other groups."""

    name: str
    runs: tuple[Result, ...]


def gather(paths: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """The runs that folders, logs and sweeps name, and a sentence for each point of a sweep that has no log yet.

    A log that is named twice, as its folder and as its file, is one run. Raises UserMistake for a sweep whose table
    does not say where its runs are.
    """
    found: dict[Path, Path] = {}  # by the log itself
    missing = []
    for path in map(Path, paths):
        is_sweep = (path / SWEEP).is_file()
        for run in _points(path) if is_sweep else [path]:
            if is_sweep and not log_file(run).exists():
                missing.append(f"'{run}' has no log yet and is left out")
            else:
                found.setdefault(log_file(run).resolve(), run)
    return list(found.values()), missing


def _points(sweep: Path) -> list[Path]:
    """The folders of a sweep's runs."""
    with (sweep / SWEEP).open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        columns = list(table.fieldnames or ())
        if "run" not in columns:
            raise UserMistake(f"'{sweep / SWEEP}' has no column 'run'; its columns are: {', '.join(columns) or 'none'}")
        return [sweep / row["run"] for row in table]


def read(paths: Sequence[str | Path], split: str | None = None) -> list[SeedGroup]:
    """The groups of the runs at some paths, in order of appearance.

    Raises UserMistake for a path without a log, for runs of different tasks or metrics, for a split on which no run has
    a score, and for the same seed twice in a group.
    """
    results = [Result.of(path, split) for path in paths]
    if not results:
        raise UserMistake("there is no run to compare")
    if split and all(result.curve.empty for result in results):
        raise UserMistake(f"no run has a score on {split}")
    for other in results[1:]:
        _check_alike(results[0], other)
    groups: dict[tuple[tuple[str, str], ...], list[Result]] = {}
    for result in results:
        own = tuple((key, repr(value)) for key, value in sorted(result.settings.items()))
        groups.setdefault(own, []).append(result)
    names = _names([runs[0].settings for runs in groups.values()])
    for name, runs in zip(names, groups.values(), strict=True):
        seeds = [run.seed for run in runs]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            same = ", ".join(f"'{run.path}'" for run in runs if run.seed == twice)
            raise UserMistake(f"runs of {name} have seed {twice} more than once: {same}")
    return [
        SeedGroup(name, tuple(sorted(runs, key=lambda run: run.seed)))
        for name, runs in zip(names, groups.values(), strict=True)
    ]


def _check_alike(first: Result, other: Result) -> None:
    """Raise UserMistake for two runs whose scores cannot be compared."""
    if other.task != first.task:
        raise UserMistake(f"'{other.path}' learns {other.task}, '{first.path}' {first.task}: they cannot be compared")
    if (other.metric, other.split) != (first.metric, first.split):
        raise UserMistake(
            f"'{other.path}' has {other.metric} on {other.split}, '{first.path}' {first.metric} on {first.split}: "
            "they cannot be compared"
        )


def _names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each group: its method, where there are several, and whatever else sets it apart.

    Settings of a method are compared among groups of that method, all others among all groups.
    """
    methods = [one.get("method.name") for one in settings]
    keys = [key for key in dict.fromkeys(key for one in settings for key in one) if key != "method.name"]
    names = []
    for own, method in zip(settings, methods, strict=True):
        alike = [one for one, other in zip(settings, methods, strict=True) if other == method]
        parts = [str(method)] * (len(set(methods)) > 1)
        for key in keys:
            others = alike if key.startswith("method.") else settings
            if key in own and len({repr(one.get(key, _ABSENT)) for one in others}) > 1:
                parts.append(f"{key}={own[key]}")
        names.append(", ".join(parts) or str(method))
    return names


def _smallest(run: Run, split: str) -> tuple[float, float]:
    """The last score of the smallest sub-model that was evaluated, and its share of the parameters."""
    table = run.evaluation[run.evaluation["split"] == split].merge(
        run.submodels[["submodel", "parameters"]], on="submodel"
    )
    table = table[table["submodel"] != GLOBAL_MODEL]
    if table.empty:
        return float("nan"), float("nan")
    row = table.loc[table["parameters"] == table["parameters"].min()].iloc[-1]
    full = run.submodels.loc[run.submodels["submodel"] == GLOBAL_MODEL, "parameters"].iloc[0]
    return float(row["score"]), float(row["parameters"] / full)
