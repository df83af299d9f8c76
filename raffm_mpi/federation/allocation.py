"""When the Slurm allocation of this process ends."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime

_TIMEOUT_S = 20.0


def end_of_allocation() -> float:
    """The end of the Slurm job in seconds since 1970; infinity without a job, without a limit or without an answer."""
    given = os.environ.get("SLURM_JOB_END_TIME")  # set by newer releases of Slurm
    if given:
        return float(given)
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return float("inf")
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format", "%e"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
        )
        return datetime.fromisoformat(asked.stdout.strip().splitlines()[0]).timestamp()
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):  # "N/A" where there is no limit
        return float("inf")
