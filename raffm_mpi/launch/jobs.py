"""Runs as jobs that Python can wait for, cancel and ask for results, through submitit: on Slurm or on this machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import Checkpointable, DelayedSubmission

from raffm_mpi.config import load_settings
from raffm_mpi.errors import UserMistake, sentence
from raffm_mpi.exchange.interruptions import RESUMABLE
from raffm_mpi.launch.launchers import Command, Place, check_launcher, command, hosts_of_job, raffm_mpi
from raffm_mpi.launch.supervise import DONE, Supervisor, requeue
from raffm_mpi.launch.sweep import Point, expand, write_table
from raffm_mpi.log import GLOBAL_MODEL, open_run

FOLDER = "jobs"  # in the output folder of a run or a sweep: scripts, logs and results of its jobs
_SIGNAL_S = 120  # before the end of its allocation a job is asked to stop
_UNTIL_KILLED_S = 600.0


class RunFailed(RuntimeError):
    """A run has ended without its result; the message is what its ranks said."""


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to; ``scores`` are the global model's last ones, by split, in the task's main metric."""

    output: str
    num_rounds: int
    final_model_sha256: str
    scores: Mapping[str, float]

    @classmethod
    def read(cls, output: str | Path) -> RunResult:
        """From the log of a finished run."""
        with open_run(output) as run:
            whole = run.evaluation[run.evaluation["submodel"] == GLOBAL_MODEL]
            scores = whole.groupby("split", observed=True)["score"].last()
            sha256 = str(run.attributes["final_model_sha256"])
            return cls(str(output), int(run.num_rows["rounds"]), sha256, {str(k): float(v) for k, v in scores.items()})


@dataclass
class Federation(Checkpointable):
    """One run, as a function that submitit pickles; called again after a requeue, it resumes."""

    config: str
    overrides: tuple[str, ...]
    output: str
    launcher: str = "mpirun"
    groups_per_node: int = 1
    threads: int = 1
    max_requeues: int = 10
    start_timeout_s: float = 300.0
    _supervisor: Supervisor | None = field(default=None, repr=False)

    def command(self) -> Command:
        """The command of its next start, on the hosts that this process has."""
        place = Place(hosts_of_job(), self.groups_per_node, self.threads)
        return command(self.launcher, place, raffm_mpi("run", self.config, *self.overrides, "--resume", "--supervised"))

    def supervisor(self) -> Supervisor:
        """What runs it here and now."""
        return Supervisor(self.command, self.output, self.start_timeout_s)

    def __call__(self) -> RunResult:
        """Run to the end; raises RunFailed with what the ranks said."""
        self._supervisor = self.supervisor()
        status = self._supervisor.run()
        if status == DONE:
            return RunResult.read(self.output)
        if status == RESUMABLE and requeue(self.max_requeues):
            time.sleep(_UNTIL_KILLED_S)  # returning would give a result
        raise RunFailed(
            "\n".join([f"the run in '{self.output}' ended with status {status}", *self._supervisor.complaints])
        )

    def checkpoint(self, *_: Any, **__: Any) -> DelayedSubmission:
        """This job must end, submitit says: stop the run, and go on with it in the next job."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        return DelayedSubmission(self)


def launch(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    nodes: int = 1,
    gpus_per_node: int = 0,
    groups_per_node: int | None = None,
    launcher: str = "mpirun",
    cluster: str | None = None,
    time_min: int = 60,
    max_requeues: int = 10,
    slurm: Mapping[str, Any] | None = None,
) -> list[submitit.Job[RunResult]]:
    """Submit a run; where overrides have several values (``seed=0,1,2``), one for each combination, as one array.

    ``groups_per_node`` is ``gpus_per_node`` if left out, and 1 without GPUs. ``cluster`` is slurm or local; left out,
    whichever is here. ``time_min`` is the limit of a job in minutes; a run that needs longer is requeued and resumes.
    ``slurm`` are submitit's parameters for Slurm without their ``slurm_``, such as partition and account. Raises
    UserMistake for a mistake in any of it, before anything is submitted.

    Each job has ``wait()``, ``result()`` (a :class:`RunResult`), ``exception()`` and ``cancel()``.
    """
    batch = Batch.of(
        config,
        overrides,
        cluster=cluster,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        groups_per_node=groups_per_node,
        launcher=launcher,
        max_requeues=max_requeues,
    )
    return batch.submit(time_min, slurm or {})


@dataclass(frozen=True)
class Batch:
    """The runs of one :func:`launch`, checked, where they go, and the folder that they share."""

    runs: list[Federation]
    points: list[Point]
    folder: Path
    cluster: str
    nodes: int
    gpus_per_node: int

    @classmethod
    def of(
        cls,
        config: str | Path,
        overrides: Sequence[str] = (),
        *,
        cluster: str | None = None,
        nodes: int = 1,
        gpus_per_node: int = 0,
        groups_per_node: int | None = None,
        launcher: str = "mpirun",
        max_requeues: int = 10,
    ) -> Batch:
        """Read the settings of every run; raises UserMistake for what is not allowed."""
        groups = (gpus_per_node or 1) if groups_per_node is None else groups_per_node
        for name, number, least in (
            ("nodes", nodes, 1),
            ("gpus_per_node", gpus_per_node, 0),
            ("groups_per_node", groups, 1),
            ("max_requeues", max_requeues, 0),
        ):
            if number < least:
                raise UserMistake(f"{name} is {number}; allowed are whole numbers from {least}")
        cluster = cluster or ("slurm" if shutil.which("srun") else "local")
        if cluster not in ("slurm", "local"):
            raise UserMistake(f"unknown cluster '{cluster}'; known: slurm, local")
        if cluster == "local" and nodes > 1:
            raise UserMistake(f"nodes is {nodes}, but cluster local has one; allowed is 1")
        check_launcher(launcher, has_slurm=cluster == "slurm")
        path, points, runs = Path(config).absolute(), expand(overrides), []
        folder = Path()
        for point in points:
            settings = load_settings(path, list(point.overrides))
            folder = Path(settings.output).absolute()
            given = (*point.overrides, f"output={folder / point.name}")
            threads, timeout_s = settings.compute.threads_per_group, settings.reliability.start_timeout_s
            output = str(folder / point.name)
            runs.append(Federation(str(path), given, output, launcher, groups, threads, max_requeues, timeout_s))
        return cls(runs, points, folder, cluster, nodes, gpus_per_node)

    def submit(self, time_min: int, slurm: Mapping[str, Any]) -> list[submitit.Job[RunResult]]:
        """Submit every run; a sweep is one array, and a table of its points is written."""
        executor = self._executor(time_min, slurm)
        if len(self.runs) == 1:
            return [executor.submit(self.runs[0])]
        write_table(self.folder, self.points)
        with executor.batch():
            return [executor.submit(run) for run in self.runs]

    def script(self, time_min: int, slurm: Mapping[str, Any]) -> str:
        """What :meth:`submit` would submit: the script for Slurm, or the command of each run."""
        if self.cluster == "local":
            return "\n".join(str(run.command()) for run in self.runs)
        inner: Any = self._executor(time_min, slurm)._executor
        if len(self.runs) > 1:
            inner.parameters["map_count"] = len(self.runs)
        text: str = inner._make_submission_file_text(inner._submitit_command_str, "dry-run")
        return text

    def _executor(self, time_min: int, slurm: Mapping[str, Any]) -> submitit.AutoExecutor:
        """The executor of submitit for these runs; raises UserMistake for what it does not know."""
        if time_min < 1:
            raise UserMistake(f"time_min is {time_min}; allowed are whole numbers from 1")
        try:
            executor = submitit.AutoExecutor(self.folder / FOLDER, cluster=self.cluster, slurm_max_num_timeout=1000)
        except RuntimeError as error:
            raise UserMistake(f"cluster '{self.cluster}': {error}") from None
        run = self.runs[0]
        executor.update_parameters(name=f"raffm_{self.folder.name}", timeout_min=time_min, tasks_per_node=1)
        if self.cluster == "local":
            executor.update_parameters(gpus_per_node=self.gpus_per_node)
            return executor
        # The task that submitit knows is one, on the first node; it starts the ranks on all of them.
        parameters: dict[str, Any] = {
            "cpus_per_task": (run.groups_per_node + 1) * run.threads,
            "signal_delay_s": _SIGNAL_S,
            "srun_args": ["--overlap", "--nodes=1", "--ntasks=1", "--mpi=none"],
            "additional_parameters": {"nodes": self.nodes, "requeue": True},
        }
        if self.gpus_per_node:
            parameters["gpus_per_node"] = self.gpus_per_node
        own = dict(slurm)
        parameters["additional_parameters"] |= own.pop("additional_parameters", {})
        parameters |= own
        try:
            executor.update_parameters(**{f"slurm_{name}": value for name, value in parameters.items()})
        except (NameError, ValueError) as error:
            raise UserMistake(f"slurm: {sentence(error)}") from None
        return executor
