"""Whether a finished or interrupted run is whole, and whether its rounds come out the same when they are run again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.federation.run import run as run_federation
from raffm_mpi.log import Run, RunLog, check_log, open_run
from raffm_mpi.recovery import checkpoint as checkpoints
from raffm_mpi.recovery.checkpoint import Checkpoint
from raffm_mpi.recovery.resume import logged_settings

_SAME = (
    "client",
    "submodel",
    "num_examples",
    "num_steps",
    "first_loss",
    "last_loss",
    "mean_loss",
    "status",
    "energy_j",
)


class _Silent:
    """A display that shows nothing."""

    def __init__(self, num_rounds: int, num_done: int = 0) -> None: ...
    def round_done(self, row: object) -> None: ...
    def evaluated(self, row: object, is_full: bool) -> None: ...
    def close(self) -> None: ...


def verify(output: Path) -> list[str]:
    """A sentence for everything that is wrong with the log and the checkpoints of a run; none if it is whole."""
    flaws = check_log(output) + checkpoints.check(output)
    if not flaws:
        with open_run(output) as run:
            flaws = list(_disagreements(run, checkpoints.found(output)))
    return flaws


def parse_rounds(text: str) -> tuple[int, int]:
    """The first round and the one after the last that ``N`` (the first N) or ``A:B`` (as a slice) names.

    >>> parse_rounds("3"), parse_rounds("4:6")
    ((0, 3), (4, 6))
    """
    first, colon, end = text.rpartition(":")
    if (first.isdigit() or not colon) and end.isdigit() and int(first or 0) < int(end):
        return int(first or 0), int(end)
    raise UserMistake(f"--replay '{text}' names no rounds; allowed are N (the first N) and A:B (rounds A to B - 1)")


def replay(output: Path, rounds: tuple[int, int], ranks: Ranks, overrides: list[str]) -> list[str]:
    """Run some rounds again, in a folder of their own, and return a sentence for each that comes out otherwise.

    They begin at the newest checkpoint before them, or at the beginning of the run; ``overrides`` change what a resumed
    run may change, such as paths. Raises UserMistake for rounds that the log does not hold.
    """
    first, end = rounds
    with open_run(output) as old, tempfile.TemporaryDirectory() as folder:
        if end > len(old.rounds):
            raise UserMistake(f"--replay: round {end - 1} is not in '{old.path}', which holds {len(old.rounds)} rounds")
        again = Path(folder)
        own = [
            f"output={json.dumps(folder)}",
            "resume=auto",
            f"federation.num_rounds={end}",
            "reliability.checkpoint_every=1",
        ]
        settings = logged_settings(old, [*own, *overrides])
        before = [checkpoint for checkpoint in checkpoints.found(output) if checkpoint.round < first]
        if before:
            _copy(output, again, before[0])
        run_federation(settings, ranks, _Silent, overwrite=False)
        with open_run(again) as new:
            return list(_differences(old, new, before[0].round + 1 if before else 0, end))


def _disagreements(run: Run, found: list[Checkpoint]) -> Iterator[str]:
    """Between a log and the checkpoints beside it."""
    logged = dict(zip(run.checkpoints["round"], run.checkpoints["model_sha256"], strict=True))
    for checkpoint in found:
        if checkpoint.state.get("run_id") != run.attributes.get("run_id"):
            yield f"'{checkpoint.folder}' is a checkpoint of another run than the log"
        elif checkpoint.round >= len(run.rounds):
            yield f"'{checkpoint.folder}' is after round {checkpoint.round}, which the log does not hold"
        elif logged.get(checkpoint.round, checkpoint.state["model_sha256"]) != checkpoint.state["model_sha256"]:
            yield f"'{checkpoint.folder}' holds another model than the one that the log names"
    final = run.attributes.get("final_model_sha256")
    all_travels = run.config["model"].get("lora") is None  # else checkpoints hold less than the final model
    if final and all_travels and logged.get(len(run.rounds) - 1, final) != final:
        yield "the model of the last checkpoint is not the final one that the log names"


def _copy(output: Path, again: Path, checkpoint: Checkpoint) -> None:
    """The run as it was at a checkpoint."""
    shutil.copytree(checkpoint.folder, again / checkpoints.FOLDER / checkpoint.folder.name)
    shutil.copy(output / "run.h5", again / "run.h5")
    RunLog.reopen(again, num_rounds=checkpoint.round + 1).abandon()


def _differences(old: Run, new: Run, first: int, end: int) -> Iterator[str]:
    """Between the rounds of two logs."""
    models = [dict(zip(run.checkpoints["round"], run.checkpoints["model_sha256"], strict=True)) for run in (old, new)]
    for number in range(first, end):
        clients = [run.clients[run.clients["round"] == number] for run in (old, new)]
        for name in _SAME:
            one, other = (np.asarray(rows[name]) for rows in clients)
            if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
                yield f"round {number}: the clients' {name} comes out otherwise"
                break
        if number in models[0] and models[0][number] != models[1].get(number):
            yield f"round {number}: the model comes out otherwise ({models[1].get(number)}, not {models[0][number]})"
