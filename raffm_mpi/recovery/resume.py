"""Where a run begins or goes on: what its output folder holds, and whether that is the run of the settings."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raffm_mpi.config import Settings, check_logged
from raffm_mpi.devices import Fleet
from raffm_mpi.errors import UserMistake
from raffm_mpi.learning.model import sha256
from raffm_mpi.log import Run, flat, open_run, tensorboard
from raffm_mpi.log.schema import log_file
from raffm_mpi.recovery import checkpoint as checkpoints
from raffm_mpi.recovery.checkpoint import Checkpoint, DamagedCheckpoint, Partial

# Settings, and groups of them, that may differ when a run is resumed, because its result does not depend on them. Data
# and model may lie elsewhere, but must be the same (check_identity). The number of rounds may grow, but not shrink.
MAY_CHANGE = (
    "output",
    "resume",
    "data.path",
    "data.tokenizer",
    "data.cache",
    "devices.profiles",
    "devices.availability.path",
    "model.name",
    "federation.num_rounds",
    "compute.server_device",
    "compute.gpu_aware_mpi",
    "evaluation.placement",
    "reliability",
    "log",
)
# The files and folders that a run leaves in its output folder.
OWN_FILES = ("run.h5", "config.yaml", "model", checkpoints.FOLDER, "report", tensorboard.FOLDER)
_LOCAL = (
    "_name_or_path",
    "transformers_version",
)  # entries of a model's config that say where it was found, and by what


@dataclass(frozen=True)
class Start:
    """Where a run begins: at round 0, or after the last round of a checkpoint."""

    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    is_new: bool = True
    is_finished: bool = False
    checkpoint: Checkpoint | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)  # the state of the server's optimizer
    partial: Partial | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)  # of the log so far
    remarks: list[str] = field(default_factory=list)  # sentences for people

    @property
    def next_round(self) -> int:
        """The first round to be run."""
        return self.checkpoint.round + 1 if self.checkpoint else 0

    @property
    def virtual_s(self) -> float:
        """Seconds on the virtual clock."""
        return float(self.checkpoint.state.get("virtual_s", 0.0)) if self.checkpoint else 0.0

    @property
    def schedule(self) -> Mapping[str, Any]:
        """What the schedule had learned, empty without a checkpoint."""
        return self.checkpoint.state["schedule"] if self.checkpoint else {}


def find_start(settings: Settings) -> Start:
    """Where the run in ``settings.output`` goes on, or the start of a new run where there is none.

    Raises UserMistake for a log or checkpoints that cannot be read, and for those of another run.
    """
    output = Path(settings.output)
    nothing = Start(remarks=[f"nothing to resume in '{output}': a new run begins"])
    if not log_file(output).exists():
        others = [name for name in OWN_FILES if (output / name).exists()]
        if others:
            raise UserMistake(f"output: '{output}' has {', '.join(others)}, but no log run.h5 that says of which run")
        return nothing
    with open_run(output) as run:
        if not run.num_rows["partition"]:  # it was killed before its first commit
            return nothing
        _check_settings(settings, run)
        checkpoint, parts, flaws = checkpoints.find(output)
        partial = None
        try:
            partial = checkpoints.find_partial(output, checkpoint)
        except DamagedCheckpoint as error:
            flaws.append(str(error))
        start = Start(
            run_id=str(run.attributes.get("run_id")),
            is_new=False,
            is_finished=run.status == "finished" and len(run.rounds) == settings.federation.num_rounds,
            checkpoint=checkpoint,
            tensors=parts.get(checkpoints.MODEL, {}),
            optimizer=parts.get(checkpoints.OPTIMIZER, {}),
            partial=partial,
            attributes=run.attributes,
            remarks=[f"{flaw}; the state before it is used" for flaw in flaws],
        )
        _check_together(start, settings, run)
    return start


def logged_settings(run: Run, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a run, with overrides; raises UserMistake for settings that this version does not know."""
    return check_logged(run.config, overrides, f"log '{run.path}'")


def changes(old: Settings, new: Settings) -> list[str]:
    """A phrase for each setting that differs and may change the result, such as ``seed was 0 and is now 1``."""
    before, after = (dict(flat(settings.model_dump(mode="json"))) for settings in (old, new))
    return [
        f"{name} was {before.get(name)!r} and is now {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and not any(name == free or name.startswith(f"{free}.") for free in MAY_CHANGE)
    ]


def identity(model: nn.Module, config: Any, data_fingerprint: str, fleet: Fleet | None) -> dict[str, str]:
    """Fingerprints of what must not change when a run is resumed: examples, devices, the model before round 0."""
    values = {key: value for key, value in config.to_dict().items() if key not in _LOCAL}
    structure = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
    weights = sha256({name: parameter.detach() for name, parameter in model.named_parameters()})
    devices = fleet.fingerprint() if fleet else ""
    return {
        "devices_sha256": devices,
        "data_sha256": data_fingerprint,
        "model_sha256": f"{structure[:16]}-{weights}",
    }


def check_identity(start: Start, found: Mapping[str, str]) -> None:
    """Raise UserMistake where examples or the initial model are not those that the run began with."""
    for key, setting, what in (
        ("data_sha256", "data.path", "this is other examples"),
        ("model_sha256", "model", "this is another model"),
        ("devices_sha256", "devices", "these are other devices, or they can be reached at other times,"),
    ):
        if not start.is_new and start.attributes.get(key, "") != found[key]:
            raise UserMistake(f"{setting}: {what} than the run in the output folder began with ({key})")


def _check_settings(settings: Settings, run: Run) -> None:
    different = changes(logged_settings(run), settings)
    if different:
        raise UserMistake(
            f"resume: {'; '.join(different)}; a run goes on with its own settings, allowed to change are "
            f"{', '.join(MAY_CHANGE)}"
        )


def _check_together(start: Start, settings: Settings, run: Run) -> None:
    """Raise UserMistake where log and checkpoints are not of one run."""
    num_rounds, asked = len(run.rounds), settings.federation.num_rounds
    partial = start.partial.checkpoint if start.partial else None
    for found in (start.checkpoint, partial):
        if found and found.state.get("run_id") != start.run_id:
            raise UserMistake(f"'{found.folder}' is a checkpoint of another run than the log '{run.path}'")
    if start.next_round > num_rounds:
        raise UserMistake(
            f"'{run.path}' holds {num_rounds} committed rounds, but the checkpoint is after {start.next_round}: "
            "it is an older copy"
        )
    if asked < max(num_rounds, start.next_round):
        raise UserMistake(f"federation.num_rounds: {asked} is fewer than the {num_rounds} rounds that are committed")
