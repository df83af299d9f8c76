"""Jobs: a run started by mpirun or srun and watched until it is finished, and submitted to Slurm through submitit.

``supervise.py`` runs inside an allocation or on one machine, ``launchers.py`` writes the command that it starts,
``jobs.py`` submits, ``sweep.py`` makes many runs of one command line.
"""

from importlib import import_module
from typing import Any

# Imported at first use (PEP 562): mpirun starts agent.py on each node, which needs nothing of jobs.py.
_LAZY = ("RunResult", "launch")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.jobs"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
