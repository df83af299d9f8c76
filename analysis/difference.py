"""What two runs differ in: settings, origin and outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raffm_mpi.analysis.quantities import COSTS, costs, main_split, scores
from raffm_mpi.analysis.style import words
from raffm_mpi.analysis.tables import line
from raffm_mpi.log import Run, open_run

_ROUND = ("train_loss", "bytes_down", "bytes_up")  # columns that are the same in equal rounds


def difference(one: str | Path, other: str | Path) -> str:
    """Markdown tables of what two runs differ in; raises UserMistake as :func:`raffm_mpi.log.open_run`."""
    with open_run(one) as first, open_run(other) as second:
        sections = {
            "Settings": _differing(_texts(first.settings), _texts(second.settings)),
            "Origin": _differing(dict(_origin(first)), dict(_origin(second))),
            "Outcome": _beside(dict(_outcome(first)), dict(_outcome(second))),
        }
        heads = f"{line(['', str(one), str(other)])}\n|---|---|---|"
        parts = []
        for title, rows in sections.items():
            lines = [line(row) for row in rows]
            parts.append("\n".join([f"**{title}**", "", *([heads, *lines] if lines else ["The same."])]))
        parts.append(_same_until(first, second))
    return "\n\n".join(parts) + "\n"


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in settings.items()}


def _differing(left: Mapping[str, str], right: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [row for row in _beside(left, right) if row[1] != row[2]]


def _beside(left: Mapping[str, str], right: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [(name, left.get(name, ""), right.get(name, "")) for name in dict.fromkeys([*left, *right])]


def _origin(run: Run) -> Iterator[tuple[str, str]]:
    """Date, code, data, model, hosts and libraries of a run."""
    attributes = run.attributes
    for name in ("date", "software_version", "commit", "num_ranks", "data_sha256", "model_sha256", "devices_sha256"):
        yield name, str(attributes.get(name, ""))
    yield "hosts", ", ".join(attributes["hosts"])
    for name, version in attributes.get("versions", {}).items():
        yield name, str(version)


def _outcome(run: Run) -> Iterator[tuple[str, str]]:
    """Status, fingerprint, score and costs of a run."""
    yield "status", run.status
    yield "final_model_sha256", str(run.attributes.get("final_model_sha256", ""))
    split = main_split(run)
    table = scores(run, split)
    yield f"{words(run.main_metric)} on {split}", f"{table['score'].iloc[-1]:.6g}" if len(table) else ""
    for cost, value in costs(run).iloc[-1][list(COSTS)].items():
        yield COSTS[str(cost)], "" if np.isnan(value) else f"{value:.10g}"


def _same_until(first: Run, second: Run) -> str:
    """A sentence on the last round up to which two runs have the same losses, bytes and models."""
    rounds = first.rounds.merge(second.rounds, on="round", suffixes=("", "_other"))
    if rounds.empty:
        return "They have no round in common."
    left, right = ({name: rounds[f"{name}{end}"] for name in _ROUND} for end in ("", "_other"))
    # A round in which no client trained has no loss, which is the same as no loss.
    same = np.all([(left[name] == right[name]) | (left[name].isna() & right[name].isna()) for name in _ROUND], axis=0)
    models = first.checkpoints.merge(second.checkpoints, on="round", suffixes=("", "_other"))
    unlike = models.loc[models["model_sha256"] != models["model_sha256_other"], "round"]
    differing = [*rounds.loc[~same, "round"], *unlike]
    if not differing:
        return f"The same losses, bytes and models in all {len(rounds)} rounds that both have."
    if min(differing) == 0:
        return "They differ from the first round on."
    last = min(differing)
    return f"The same losses, bytes and models up to round {last}; they differ from round {last + 1} on."
