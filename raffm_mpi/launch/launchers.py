"""The command that starts the ranks of a run: by mpirun or srun, on this machine or on the hosts of this Slurm job.

Rank 0, the server, is on the first host; every host has as many client groups as it has GPUs (or as it is told).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.openmpi import DETECTOR

Launcher = Literal["mpirun", "srun"]

_TIMEOUT_S = 60.0
# Variables of the whole Slurm job are passed on to the launcher. Those of the step that this process runs in are not:
# they would confine the launcher to that step.
_OF_THE_JOB = ("SLURM_JOB_", "SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_ARRAY_", "SLURM_RESTART_COUNT")
_OF_A_STEP = ("SLURM_", "SRUN_", "PMI_", "PMIX_", "OMPI_COMM_WORLD", "OMPI_UNIVERSE")


@dataclass(frozen=True)
class Place:
    """Where ranks go: client groups on each host, the server beside them on the first, and threads of each rank."""

    hosts: tuple[str, ...] = ()  # empty: this machine, without Slurm
    groups_per_node: int = 1
    threads: int = 1

    @property
    def ranks_of_hosts(self) -> list[int]:
        """The number of ranks on each host; the first host has the server too."""
        return [self.groups_per_node + (index == 0) for index in range(max(1, len(self.hosts)))]

    @property
    def num_ranks(self) -> int:
        """The server and all client groups."""
        return sum(self.ranks_of_hosts)


@dataclass(frozen=True)
class Command:
    """The words of a command, and its environment."""

    words: tuple[str, ...]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        return " ".join(self.words)


def hosts_of_job() -> tuple[str, ...]:
    """The hosts of the Slurm job of this process; empty without a job."""
    nodes = os.environ.get("SLURM_JOB_NODELIST")
    if not nodes:
        return ()
    asked = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
    )
    return tuple(asked.stdout.split())


def check_launcher(launcher: str, has_slurm: bool) -> None:
    """Raise UserMistake for an unknown launcher, and for srun without a Slurm job."""
    if launcher not in _LAUNCHERS:
        raise UserMistake(f"unknown launcher '{launcher}'; known: {', '.join(get_args(Launcher))}")
    if launcher == "srun" and not has_slurm:
        raise UserMistake("launcher 'srun' needs a Slurm job; take 'mpirun' on a machine without")


def command(launcher: str, place: Place, program: Sequence[str]) -> Command:
    """The command by which a launcher starts ``program`` on every rank.

    Raises UserMistake for an unknown launcher and for one that is not here.
    """
    check_launcher(launcher, has_slurm=bool(place.hosts))
    path = _find(launcher)
    if path is None:
        known = ", ".join(get_args(Launcher))
        raise UserMistake(f"launcher '{launcher}' is neither beside {sys.executable} nor on PATH; known: {known}")
    options, added = _LAUNCHERS[launcher](place)
    return Command((path, *options, *program), {**_environment(), **added})


def raffm_mpi(*arguments: str) -> list[str]:
    """The program that every rank runs: this installation's command line."""
    return [sys.executable, "-m", "raffm_mpi", *arguments]


def _find(launcher: str) -> str | None:
    """The path of a launcher: an mpirun in this Python's environment goes before that on PATH."""
    beside = Path(sys.executable).with_name(launcher)
    return str(beside) if beside.exists() else shutil.which(launcher)


def _mpirun(place: Place) -> tuple[list[str], dict[str, str]]:
    if not _is_open_mpi_5():
        if len(place.hosts) > 1:
            raise UserMistake("launcher 'mpirun' is not Open MPI 5, which starts ranks on several nodes; take 'srun'")
        return ["-n", str(place.num_ranks)], {}
    # ULFM survives dead ranks. There may be more ranks than slots, since rank 0 mostly sleeps.
    options = ["--with-ft", "ulfm", "-n", str(place.num_ranks)]
    if place.ranks_of_hosts[0] * place.threads <= _cpus():
        options += ["--map-by", f"slot:PE={place.threads}:HWTCPUS:OVERSUBSCRIBE", "--bind-to", "hwthread"]
    else:
        options += ["--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none"]
    if place.hosts:
        slots = ",".join(f"{host}:{ranks}" for host, ranks in zip(place.hosts, place.ranks_of_hosts, strict=True))
        options += ["--host", slots, "--prtemca", "ras", "^slurm", "--prtemca", "plm", "ssh"]
    if len(place.hosts) > 1:
        options += ["--prtemca", "plm_ssh_agent", f"{sys.executable} -m raffm_mpi.launch.agent"]
        options += [word for name, value in DETECTOR.items() for word in ("--mca", name, value)]
    return options, {}


def _srun(place: Place) -> tuple[list[str], dict[str, str]]:
    # A dead rank ends the step at once, so that the supervisor can resume the run.
    options = [
        "--mpi=pmix",
        "--kill-on-bad-exit=1",
        "--overlap",
        "--cpu-bind=cores",
        f"--cpus-per-task={place.threads}",
    ]
    options += [f"--nodes={len(place.hosts)}", f"--ntasks={place.num_ranks}"]
    if len(place.hosts) == 1:
        return options, {}
    # The first host has one task more than the others. srun takes that only from a file with a line for each task.
    lines = [host for host, ranks in zip(place.hosts, place.ranks_of_hosts, strict=True) for _ in range(ranks)]
    with tempfile.NamedTemporaryFile("w", prefix="raffm_mpi_hosts_", delete=False) as file:
        file.write("\n".join(lines) + "\n")
    return [*options, "--distribution=arbitrary"], {"SLURM_HOSTFILE": file.name}


_LAUNCHERS: dict[str, Callable[[Place], tuple[list[str], dict[str, str]]]] = {"mpirun": _mpirun, "srun": _srun}


def _environment() -> dict[str, str]:
    """The environment of this process without the variables of its Slurm step and of MPI."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_OF_THE_JOB) or not name.startswith(_OF_A_STEP)
    }


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _is_open_mpi_5() -> bool:
    said = subprocess.run(
        [str(_find("mpirun")), "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S
    ).stdout
    _, is_open_mpi, version = said.partition("(Open MPI) ")
    return bool(is_open_mpi) and int(version.split(".")[0]) >= 5


def clean_up(command: Command) -> None:
    """Delete the host file of a command, if :func:`command` wrote one."""
    if "SLURM_HOSTFILE" in command.environment:
        Path(command.environment["SLURM_HOSTFILE"]).unlink(missing_ok=True)
