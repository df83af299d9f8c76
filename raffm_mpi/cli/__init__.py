"""The command line of ``raffm-mpi``; what a command needs is imported when it is called."""

from raffm_mpi.cli import runs  # the first of the help

# isort: split
from raffm_mpi.cli import cluster, looking, settings
from raffm_mpi.cli.base import app, end_on_mistake
from raffm_mpi.errors import UserMistake

__all__ = ["app", "cluster", "looking", "main", "runs", "settings"]


def main() -> None:
    """The entry point of ``raffm-mpi`` and ``python -m raffm_mpi``.

    A command on several ranks ends them itself (:func:`base.all_ranks`); any other raises UserMistake here. Any other
    error is a fault: Python shows its traceback, and the exit status is 1.
    """
    try:
        app()
    except UserMistake as mistake:
        end_on_mistake(mistake)
