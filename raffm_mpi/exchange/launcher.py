"""What started this process, as its environment tells, whatever MPI makes of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

# Names, and variables with the number of processes and this one's. Open MPI's first: mpirun starts its daemons on other
# nodes by srun, whose variables their ranks then carry, too. PMI is of MPICH, Intel MPI, Cray MPICH and Flux.
_LAUNCHERS = (
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpirun_rsh", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("mpirun_rsh", "MVP_COMM_WORLD_SIZE", "MVP_COMM_WORLD_RANK"),
    ("a PMI launcher", "PMI_SIZE", "PMI_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
_LIST_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Launcher:
    """Who started how many processes; ``name`` is empty for one that nobody started together with others.

    ``size`` is 0 where the launcher does not tell it, as one that speaks PMIx alone. ``pmix`` is what the environment
    tells of a PMIx server: its version, "unknown", or nothing. ``allocated`` is the number of tasks of the Slurm
    allocation around, 0 without one.
    """

    name: str = ""
    size: int = 1
    rank: int = 0
    pmix: str = ""
    allocated: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Launcher:
        """From the variables of a process.

        A task that srun started alone has no launcher: there is nothing to join, and a shell on a node is such a task.
        """
        pmix = environment.get("PMIX_VERSION", "unknown") if "PMIX_NAMESPACE" in environment else ""
        allocated = _number(environment.get("SLURM_NTASKS", "0"))
        for name, size, rank in _LAUNCHERS:
            if size in environment and rank in environment:
                number = _number(environment[size])
                if name == "srun" and number == 1:
                    return cls(pmix=pmix, allocated=allocated)
                return cls(name, number, _number(environment[rank]), pmix, allocated)
        if pmix and "PMIX_RANK" in environment:
            return cls("a PMIx launcher", 0, _number(environment["PMIX_RANK"]), pmix, allocated)
        return cls(pmix=pmix, allocated=allocated)


def srun_plugins() -> list[str]:
    """The ways in which this Slurm's srun can start MPI (pmix, pmi2, …); none without Slurm or without an answer."""
    if not shutil.which("srun"):
        return []
    try:
        asked = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, timeout=_LIST_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if asked.returncode != 0:
        return []
    lines = (asked.stdout + asked.stderr).splitlines()
    words = [word for line in lines if not line.rstrip().endswith("...") for word in line.split(":")[-1].split()]
    return [word.strip(",") for word in words]


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
