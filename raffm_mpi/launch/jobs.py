"""Runs as jobs of submitit, on Slurm or on this machine: Python waits for them, cancels them and gets their results."""

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
_SIGNAL_S = 120  # a job is asked to stop this long before the end of its allocation
_UNTIL_KILLED_S = 600.0  # a requeued job waits for Slurm to kill it, at most this long


class RunFailed(RuntimeError):
    """A run has ended without a result; the message is what its ranks said."""


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run; ``scores`` are the global model's last, by split, in the task's main metric."""

    output: str
    num_rounds: int
    final_model_sha256: str
    scores: Mapping[str, float]

    @classmethod
    def read(cls, output: str | Path) -> RunResult:
        """Read the log of a finished run."""
        with open_run(output) as run:
            whole = run.evaluation[run.evaluation["submodel"] == GLOBAL_MODEL]
            scores = whole.groupby("split", observed=True)["score"].last()
            sha256 = str(run.attributes["final_model_sha256"])
            return cls(str(output), int(run.num_rows["rounds"]), sha256, {str(k): float(v) for k, v in scores.items()})


@dataclass
class Federation(Checkpointable):
    """One run, as a function that submitit pickles; when Slurm has requeued the job, it is called again and resumes."""

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
        """The command that starts the ranks on the hosts of this job."""
        place = Place(hosts_of_job(), self.groups_per_node, self.threads)
        return command(self.launcher, place, raffm_mpi("run", self.config, *self.overrides, "--resume", "--supervised"))

    def supervisor(self) -> Supervisor:
        """The supervisor that runs it on these hosts."""
        return Supervisor(self.command, self.output, self.start_timeout_s)

    def __call__(self) -> RunResult:
        """Run to the end; raises RunFailed with what the ranks said."""
        self._supervisor = self.supervisor()
        status = self._supervisor.run()
        if status == DONE:
            return RunResult.read(self.output)
        if status == RESUMABLE and requeue(self.max_requeues):
            time.sleep(_UNTIL_KILLED_S)  # to return would end the job with a result
        raise RunFailed(
            "\n".join([f"the run in '{self.output}' ended with status {status}", *self._supervisor.complaints])
        )

    def checkpoint(self, *_: Any, **__: Any) -> DelayedSubmission:
        """Called by submitit when this job must end: stop the run; the next job goes on with it."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        return DelayedSubmission(self)


@dataclass(frozen=True)
class Resources:
    """What each job of a launch asks for; raises UserMistake for what is not allowed."""

    nodes: int = 1
    gpus_per_node: int = 0
    groups_per_node: int | None = None  # client groups; None: one a GPU, or one on a node without GPUs
    launcher: str = "mpirun"
    cluster: str | None = None  # slurm or local; None: Slurm where it is installed
    time_min: int = 60  # limit of a job in minutes; a run that needs longer is requeued and resumes
    max_requeues: int = 10
    slurm: Mapping[str, Any] = field(default_factory=dict)  # submitit's parameters without their "slurm_"

    def __post_init__(self) -> None:
        for name, number, least in (
            ("nodes", self.nodes, 1),
            ("gpus_per_node", self.gpus_per_node, 0),
            ("groups_per_node", self.num_groups, 1),
            ("time_min", self.time_min, 1),
            ("max_requeues", self.max_requeues, 0),
        ):
            if number < least:
                raise UserMistake(f"{name} is {number}; allowed are whole numbers from {least}")
        if self.cluster not in (None, "slurm", "local"):
            raise UserMistake(f"unknown cluster '{self.cluster}'; known: slurm, local")
        if self.where == "local" and self.nodes > 1:
            raise UserMistake(f"nodes is {self.nodes}, but cluster local has one; allowed is 1")
        check_launcher(self.launcher, has_slurm=self.where == "slurm")

    @property
    def num_groups(self) -> int:
        """Client groups on each node."""
        return (self.gpus_per_node or 1) if self.groups_per_node is None else self.groups_per_node

    @property
    def where(self) -> str:
        """Slurm or local."""
        return self.cluster or ("slurm" if shutil.which("srun") else "local")


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

    The options are those of :class:`Resources`. Raises UserMistake for a mistake in any of it, before anything is
    submitted.

    Each job has ``wait()``, ``result()`` (a :class:`RunResult`), ``exception()`` and ``cancel()``.
    """
    resources = Resources(nodes, gpus_per_node, groups_per_node, launcher, cluster, time_min, max_requeues, slurm or {})
    return Batch.of(config, overrides, resources).submit()


@dataclass(frozen=True)
class Batch:
    """The runs of one :func:`launch`, with their settings checked, and the folder that they share."""

    runs: list[Federation]
    points: list[Point]
    folder: Path
    resources: Resources

    @classmethod
    def of(cls, config: str | Path, overrides: Sequence[str], resources: Resources) -> Batch:
        """Read the settings of every run; raises UserMistake for what is not allowed."""
        path, points, runs = Path(config).absolute(), expand(overrides), []
        folder = Path()
        for point in points:
            settings = load_settings(path, list(point.overrides))
            folder = Path(settings.output).absolute()
            output = str(folder / point.name)
            run = Federation(
                config=str(path),
                overrides=(*point.overrides, f"output={output}"),
                output=output,
                launcher=resources.launcher,
                groups_per_node=resources.num_groups,
                threads=settings.compute.threads_per_group,
                max_requeues=resources.max_requeues,
                start_timeout_s=settings.reliability.start_timeout_s,
            )
            runs.append(run)
        return cls(runs, points, folder, resources)

    def submit(self) -> list[submitit.Job[RunResult]]:
        """Submit every run; a sweep is one array, and a table of its points is written."""
        executor = self._executor()
        if len(self.runs) == 1:
            return [executor.submit(self.runs[0])]
        write_table(self.folder, self.points)
        with executor.batch():
            return [executor.submit(run) for run in self.runs]

    def script(self) -> str:
        """What :meth:`submit` would submit: the script for Slurm, or on this machine the command of each run."""
        if self.resources.where == "local":
            return "\n".join(str(run.command()) for run in self.runs)
        inner: Any = self._executor()._executor
        if len(self.runs) > 1:
            inner.parameters["map_count"] = len(self.runs)
        text: str = inner._make_submission_file_text(inner._submitit_command_str, "dry-run")
        return text

    def _executor(self) -> submitit.AutoExecutor:
        """The executor of submitit for these runs; raises UserMistake for parameters that it does not know."""
        resources, cluster = self.resources, self.resources.where
        try:
            executor = submitit.AutoExecutor(self.folder / FOLDER, cluster=cluster, slurm_max_num_timeout=1000)
        except RuntimeError as error:
            raise UserMistake(f"cluster '{cluster}': {error}") from None
        run = self.runs[0]
        executor.update_parameters(name=f"raffm_{self.folder.name}", timeout_min=resources.time_min, tasks_per_node=1)
        if cluster == "local":
            executor.update_parameters(gpus_per_node=resources.gpus_per_node)
            return executor
        # submitit starts one task, on the first node; that task starts the ranks on all nodes.
        parameters: dict[str, Any] = {
            "cpus_per_task": (run.groups_per_node + 1) * run.threads,
            "signal_delay_s": _SIGNAL_S,
            "srun_args": ["--overlap", "--nodes=1", "--ntasks=1", "--mpi=none"],
            "additional_parameters": {"nodes": resources.nodes, "requeue": True},
        }
        if resources.gpus_per_node:
            parameters["gpus_per_node"] = resources.gpus_per_node
        own = dict(resources.slurm)
        parameters["additional_parameters"] |= own.pop("additional_parameters", {})
        parameters |= own
        try:
            executor.update_parameters(**{f"slurm_{name}": value for name, value in parameters.items()})
        except (NameError, ValueError) as error:
            raise UserMistake(f"slurm: {sentence(error)}") from None
        return executor
