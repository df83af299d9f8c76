"""The numbers of a run as TensorBoard's event files, from its log or row by row while it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from raffm_mpi.errors import UserMistake
from raffm_mpi.log.reader import Run, records
from raffm_mpi.log.schema import GLOBAL_MODEL, ROUNDS

FOLDER = "tensorboard"  # in the run's
_NUMBERS = tuple(column.name for column in ROUNDS.columns if column.name != "round")


def check_installed() -> None:
    """Raise UserMistake where TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise UserMistake(
            "TensorBoard's files need the package tensorboard: pip install 'raffm_mpi[tensorboard]'"
        ) from None


class EventWriter:
    """Writes rows of the tables ``rounds``, ``evaluation`` and ``metrics`` as scalars; a step is a round.

    Tags are ``rounds/COLUMN`` and ``SPLIT/METRIC``, followed by ``/submodel N`` for every sub-model but the full model.
    Wall times are sums of the rounds' seconds from the start of the run, so that the same log gives the same events.
    """

    def __init__(self, folder: Path, date: str, config: str) -> None:
        check_installed()
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)  # an earlier start's rows are written again from the log
        self._writer = SummaryWriter(str(folder), max_queue=1000)
        self._time_s = datetime.fromisoformat(date).timestamp()
        self._writer.add_text("config", f"```\n{config}\n```", 0, self._time_s)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Write a row of ``rounds``, without the numbers that are NaN."""
        self._time_s += float(row["round_s"])
        for name in _NUMBERS:
            self._add(f"rounds/{name}", float(row[name]), int(row["round"]))
        self._writer.flush()

    def evaluated(self, row: Mapping[str, Any], is_full: bool) -> None:
        """Write a row of ``evaluation``, and its metrics: ``row["metrics"]``."""
        suffix = "" if is_full else f"/submodel {row['submodel']}"
        for name, value in {"loss": row["loss"], **row["metrics"]}.items():
            self._add(f"{row['split']}/{name}{suffix}", float(value), int(row["round"]))
        self._writer.flush()

    def close(self) -> None:
        """Write what is still in memory, and close."""
        self._writer.close()

    def _add(self, tag: str, value: float, step: int) -> None:
        if not np.isnan(value):
            self._writer.add_scalar(tag, value, step, self._time_s)


def export(run: Run, folder: Path, num_rounds: int | None = None) -> EventWriter:
    """Write the events of a log, or of its first ``num_rounds`` rounds; the writer stays open for more.

    With ``num_rounds`` the evaluations after the last of these rounds are left out: the resumed run repeats them.
    """
    writer = EventWriter(folder, str(run.attributes["date"]), str(run.attributes["config"]))
    keys = ["round", "submodel", "split"]
    metrics = {
        key: dict(zip(table["metric"], table["value"], strict=True))
        for key, table in run.metrics.groupby(keys, observed=True)
    }
    evaluation = run.evaluation
    last = float("inf") if num_rounds is None else num_rounds
    by_round = dict(iter(evaluation[evaluation["round"] < last - 1].groupby("round")))
    for row in records(run.rounds[run.rounds["round"] < last]):
        writer.round_done(row)
        for found in records(by_round[row["round"]]) if row["round"] in by_round else ():
            own = metrics.get(tuple(found[key] for key in keys), {})
            writer.evaluated({**found, "metrics": own}, found["submodel"] == GLOBAL_MODEL)
    return writer
