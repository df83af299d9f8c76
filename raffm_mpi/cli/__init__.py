"""The command line of ``raffm-mpi``; what a command needs is imported when it is called."""

from raffm_mpi.cli import runs  # the first of the help

# isort: split
from raffm_mpi.cli import cluster, looking, settings
from raffm_mpi.cli.base import app

__all__ = ["app", "cluster", "looking", "main", "runs", "settings"]


def main() -> None:
    """The entry point of ``raffm-mpi`` and ``python -m raffm_mpi``."""
    app()
