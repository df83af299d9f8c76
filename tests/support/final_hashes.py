"""Federations under mpirun, and the final SHA-256 of each."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from support.warm_server import warm_python

PROGRAM = Path(__file__).parent / "programs" / "final_hashes.py"


def hashes_on(mpirun, ranks, output, configs):
    """The final SHA-256 of each config's federation."""
    python = [sys.executable] if ranks == 3 else warm_python()  # fresh ones have each another order of sets
    result = mpirun(ranks, *python, PROGRAM, output, *configs)
    assert result.returncode == 0, result.stderr
    hashes = dict(re.findall(r"^sha256 (\S+) ([0-9a-f]{64})", result.stdout, re.MULTILINE))
    assert hashes.keys() == {config.stem for config in configs}
    return hashes
