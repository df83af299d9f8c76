"""Start the ranks of a benchmark by the mpirun beside this Python, on any number of cores, as root too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def mpirun(num_ranks: int, *arguments: object, options: Sequence[str] = ()) -> list[str]:
    """The command that runs this Python with ``arguments`` on so many ranks; ``options`` are mpirun's."""
    start = [Path(sys.executable).with_name("mpirun"), *options, "--oversubscribe", "--bind-to", "none"]
    return [str(word) for word in (*start, "-n", num_ranks, sys.executable, *arguments)]


def run(num_ranks: int, *arguments: object, options: Sequence[str] = (), quiet: bool = True) -> None:
    """Run :func:`mpirun`'s command to its end; raises CalledProcessError where it fails."""
    output = subprocess.DEVNULL if quiet else None
    subprocess.run(mpirun(num_ranks, *arguments, options=options), env=ENVIRONMENT, check=True, stdout=output)
