"""How a run speaks to people beside its progress: one sentence a line on standard error."""

from __future__ import annotations

import sys

MET = "all ranks have met"  # what a supervised run says first


def say(sentence: str) -> None:
    """Print a sentence that says whom it is from."""
    print(f"raffm-mpi: {sentence}", file=sys.stderr, flush=True)
