"""The beginning and the end of a run's log: created or continued, with what was resumed, and closed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from raffm_mpi.config import Settings
from raffm_mpi.devices import DEVICE_NUMBERS, Fleet
from raffm_mpi.exchange.interruptions import RESUMABLE, Interruption
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.federation.experiment import Experiment
from raffm_mpi.federation.recorder import Recorder
from raffm_mpi.federation.state import RunState
from raffm_mpi.log import NO_DEVICE, RunLog, open_run
from raffm_mpi.log.tensorboard import FOLDER, EventWriter, export
from raffm_mpi.messages import say
from raffm_mpi.recovery.resume import OWN_FILES, Start
from raffm_mpi.versions import versions

NO_CLASSES = ("all",)  # the one column of the partition's label counts, for tasks without classes


def claim(output: Path) -> None:
    """Make the output folder, and remove what an earlier run left there."""
    output.mkdir(parents=True, exist_ok=True)
    for name in OWN_FILES:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def open_log(
    experiment: Experiment, ranks: Ranks, start: Start, found: Mapping[str, str], places: list[tuple[str, str]]
) -> RunLog:
    """The log of a new run, or that of a resumed run with the rounds before the next."""
    settings, path = experiment.settings, Path(experiment.settings.output) / "run.h5"
    roles = ["server and group" if ranks.size == 1 else "server", *["group"] * (ranks.size - 1)]
    attributes = {
        **found,
        "run_id": start.run_id,
        "versions": versions() | {"mpi": ranks.library},
        "commit": _commit(),
        "hosts": list(dict.fromkeys(host for host, _ in places)),
        "devices": sorted({device.split(":")[0] for _, device in places}),
        "num_ranks": ranks.size,
        "command": " ".join(sys.argv),
    }
    rows = [(number, *rank, roles[number]) for number, rank in enumerate(places)]
    if not start.is_new:
        return RunLog.reopen(
            path,
            num_rounds=start.next_round,
            reevaluate=start.next_round - 1,
            attributes={**attributes, "config": settings.to_yaml()},
            ranks=rows,
            file_locking=settings.log.file_locking,
        )
    log = RunLog.create(
        path,
        config=settings.to_yaml(),
        attributes={**attributes, "task": experiment.info.task, "metrics": list(experiment.metrics)},
        dimensions=list(experiment.layout.all_sizes),
        label_names=list(experiment.info.label_names or NO_CLASSES),
        ranks=rows,
        file_locking=settings.log.file_locking,
    )
    counts, fleet = _label_counts(experiment), experiment.fleet
    device = fleet.of_client if fleet else np.full(len(counts), NO_DEVICE)
    log.append(
        "partition", client=np.arange(len(counts)), num_examples=counts.sum(axis=1), label_counts=counts, device=device
    )
    if fleet:
        log.append("devices", **_device_rows(fleet))
    log.commit()
    return log


def open_events(settings: Settings, start: Start) -> list[EventWriter]:
    """The writer of TensorBoard's files, with the rounds of a resumed run; none where the settings ask for none.

    Call it before :func:`open_log`, which replaces the old log that it reads.
    """
    if not settings.log.tensorboard:
        return []
    output = Path(settings.output)
    if not start.is_new:
        with open_run(output) as run:
            return [export(run, output / FOLDER, start.next_round)]
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return [EventWriter(output / FOLDER, date, settings.to_yaml())]


def _device_rows(fleet: Fleet) -> dict[str, Any]:
    profiles = list(fleet.profiles.values())
    numbers = {name: [getattr(profile, name) for profile in profiles] for name in DEVICE_NUMBERS}
    names = list(fleet.profiles)
    return {"device": np.arange(len(names)), "name": names, "num_clients": fleet.num_clients, **numbers}


def close_log(log: RunLog, recorder: Recorder, interruption: Interruption) -> None:
    """Log how the run ended and close the log; a log that cannot be written keeps its last commit."""
    number = max(recorder.committed_round, 0)
    resumable = interruption.exit_status == RESUMABLE
    recorder.event(number, "interrupted", str(interruption))
    try:
        log.finish("interrupted" if resumable else "failed")
    except OSError:
        log.abandon()


def log_start(recorder: Recorder, state: RunState, start: Start, ranks: Ranks, devices: list[str]) -> None:
    """Log that a run was resumed, and what may change its bits."""
    if start.is_new:
        return
    after = f"after round {start.next_round - 1}" if start.next_round else "at its beginning"
    recorder.event(max(start.next_round - 1, 0), "resumed", f"goes on {after} on {ranks.size} ranks")
    for remark in [*start.remarks, *_what_shows(start, devices)]:
        if remark not in start.remarks:
            say(remark)
        recorder.event(max(start.next_round - 1, 0), "warning", remark)
    if state.saved:
        recorder.checkpoint(state.saved, 0.0)
    recorder.commit()


def _what_shows(start: Start, devices: list[str]) -> list[str]:
    """A sentence for each library or kind of device that has changed since the run began: it may round otherwise."""
    before = start.attributes["versions"]
    changed = [
        f"{name} {before[name]} is now {now}"
        for name, now in versions().items()
        if name in ("torch", "transformers") and before.get(name) != now
    ]
    kinds = {device.split(":")[0] for device in devices}
    if set(start.attributes.get("devices", kinds)) != kinds:
        changed.append(f"{', '.join(start.attributes['devices'])} is now {', '.join(sorted(kinds))}")
    return [f"{change}: the bits may differ from an undisturbed run's" for change in changed]


def _label_counts(experiment: Experiment) -> np.ndarray:
    """Training examples of each client and label: int64 ``[num_clients, num_labels]``, one column if there are none."""
    names, train = experiment.info.label_names, experiment.examples.train
    return experiment.partition.count_labels(train.labels if names else train.classes, len(names or NO_CLASSES))


def _commit() -> str:
    """The commit of the source tree this runs from, with ``-dirty`` for uncommitted changes."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
