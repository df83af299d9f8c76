"""A run from its settings to its results: set up every rank, then serve or train until the last round is committed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from raffm_mpi.config import Settings
from raffm_mpi.federation.client_group import ClientGroup
from raffm_mpi.federation.experiment import Experiment, Look, look, set_up
from raffm_mpi.federation.recorder import Display, Recorder
from raffm_mpi.federation.server import Server
from raffm_mpi.federation.transport import Transport
from raffm_mpi.log import RunLog
from raffm_mpi.model import save_model, sha256

NO_CLASSES = ("all",)  # the one column of the partition's label counts, for tasks without classes
_OWN_FILES = ("run.h5", "config.yaml", "model", "report.png", "report.svg")
_LIBRARIES = ("torch", "transformers", "datasets", "numpy", "h5py", "mpi4py", "safetensors")


def look_first(settings: Settings, overwrite: bool) -> Look:
    """What rank 0 finds out before the other ranks load anything, so that most mistakes end a run within seconds.

    Raises ValueError for an output folder that cannot or must not be written, and as :func:`experiment.look`.
    """
    _check_output(Path(settings.output), overwrite)
    return look(settings)


def run(
    settings: Settings,
    transport: Transport,
    display: Callable[[int], Display],
    overwrite: bool,
    looked: Look | None = None,
) -> None:
    """Run a federation on all ranks of the transport; rank 0 leaves the log and the model in ``settings.output``.

    ``looked`` is what rank 0 has from :func:`look_first` where it called that already. Raises UserMistake, on every
    rank, for settings that the data, the model or the machine contradict.
    """
    output = Path(settings.output)
    looked = transport.together(lambda: (looked or look_first(settings, overwrite)) if transport.rank == 0 else None)
    experiment = set_up(settings, transport, looked)
    cpus = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
    ranks = [line.split("\t") for line in transport.describe(f"{transport.host}\t{experiment.device.device}\t{cpus}")]
    if transport.rank > 0:
        ClientGroup(experiment, transport).serve()
        return
    log = _create_log(output, experiment, transport, [(host, device) for host, device, _ in ranks])
    shown = display(settings.federation.num_rounds)
    recorder = Recorder(experiment, log, shown, first_rank=min(transport.size - 1, 1))
    server = Server(experiment, transport, recorder, _shard_evaluation(settings, ranks))
    try:
        server.run()
    except BaseException:
        log.finish("failed")
        raise
    finally:
        shown.close()
    save_model(output / "model", server.shell, experiment.layout, server.model.tensors)
    log.finish("finished", sha256(server.model.tensors))


def _check_output(output: Path, overwrite: bool) -> None:
    """Raise ValueError unless the output folder is new or empty, or may be overwritten, and can be written."""
    try:
        if output.exists() and any(output.iterdir()) and not overwrite:
            raise ValueError(f"output: folder '{output}' exists; add --overwrite to replace its run")
        nearest = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(f"output: folder '{output}' cannot be written: {error.strerror}") from None


def _claim(output: Path) -> None:
    """Make the output folder ours: what an earlier run left there goes."""
    output.mkdir(parents=True, exist_ok=True)
    for name in _OWN_FILES:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _create_log(output: Path, experiment: Experiment, transport: Transport, ranks: list[tuple[str, str]]) -> RunLog:
    settings = experiment.settings
    _claim(output)
    (output / "config.yaml").write_text(settings.to_yaml(), encoding="utf-8")
    roles = ["server and group" if transport.size == 1 else "server", *["group"] * (transport.size - 1)]
    log = RunLog.create(
        output / "run.h5",
        config=settings.to_yaml(),
        attributes={
            "versions": {
                "python": sys.version.split()[0],
                **{name: version(name) for name in _LIBRARIES},
                "mpi": transport.library,
            },
            "commit": _commit(),
            "hosts": list(dict.fromkeys(host for host, _ in ranks)),
            "num_ranks": transport.size,
            "command": " ".join(sys.argv),
            "task": experiment.info.task,
            "metrics": list(experiment.metrics),
        },
        dimensions=list(experiment.layout.sizes),
        label_names=list(experiment.info.label_names or NO_CLASSES),
        ranks=[(number, *rank, roles[number]) for number, rank in enumerate(ranks)],
        file_locking=settings.log.file_locking,
    )
    counts = _label_counts(experiment)
    log.append("partition", client=np.arange(len(counts)), num_examples=counts.sum(axis=1), label_counts=counts)
    log.commit()
    return log


def _shard_evaluation(settings: Settings, ranks: list[list[str]]) -> bool:
    """Whether the groups evaluate: ``auto`` leaves it to a server that shares neither GPU nor core with a group."""
    if len(ranks) == 1:
        return False
    if settings.evaluation.placement != "auto":
        return settings.evaluation.placement == "groups"
    server, *groups = [(device, cpus) for host, device, cpus in ranks if host == ranks[0][0]]
    if server[0] != "cpu":
        return any(device == server[0] for device, _ in groups)
    cores = {cpu for _, cpus in [server, *groups] for cpu in cpus.split(",")}
    return len(cores) < (1 + len(groups)) * settings.compute.threads_per_group


def _label_counts(experiment: Experiment) -> np.ndarray:
    """Training examples of each client and class: int64 ``[num_clients, num_classes]``, one class if there are none."""
    partition, labels = experiment.partition, experiment.examples.train.labels.astype(np.int64)
    num_classes = len(experiment.info.label_names or NO_CLASSES)
    if not experiment.info.label_names:
        labels = np.zeros_like(labels)
    client_of = np.repeat(np.arange(partition.num_clients), np.diff(partition.offsets))
    cells = client_of * num_classes + labels[partition.indices]
    return np.bincount(cells, minlength=partition.num_clients * num_classes).reshape(-1, num_classes)


def _commit() -> str:
    """The commit of the source tree this runs from, with ``-dirty`` for uncommitted changes."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
