"""What commands share: the application, and how every process of one ends."""

from __future__ import annotations

import os
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from raffm_mpi.errors import UserMistake
from raffm_mpi.messages import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raffm_mpi.exchange.ranks import Ranks

MISTAKE = 2


class _Commands(TyperGroup):
    """The commands. One on several ranks ends them itself (:func:`all_ranks`); any other raises UserMistake up to here.

    Any other error is a fault: Python shows its traceback, and the exit status is 1.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for, and end with status 2 on a mistake of the user."""
        try:
            return super().invoke(ctx)
        except UserMistake as mistake:
            say_mistake(mistake)
            raise SystemExit(MISTAKE) from None


app = typer.Typer(
    cls=_Commands,
    help="Federated fine-tuning of transformers with resource-aware sub-models, on MPI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def all_ranks(ranks: Ranks | None = None) -> Iterator[Ranks]:
    """The ranks of this job for what a command does with them, and how every one of them ends after it.

    A mistake that all share is said by one of them and ends all with status 2; one that a single rank meets alone is
    said by that rank, and ends all as well. Any other error is a fault: its rank shows the traceback, names itself, and
    ends all with status 1. ``ranks`` are those that a command has joined by itself.
    """
    if ranks is None:
        from raffm_mpi.exchange.join import join

        ranks = join()
    from raffm_mpi.exchange.ranks import Left, SharedMistake

    try:
        yield ranks
        ranks.leave(0)
    except Left:
        raise
    except SharedMistake as mistake:
        if ranks.speaks:
            say_mistake(mistake)
        ranks.leave(MISTAKE)
    except UserMistake as mistake:
        ranks.abort(str(mistake), MISTAKE)
    except BaseException as error:  # SystemExit, too: it is of code that a run has called, and the others wait
        traceback.print_exc()
        ranks.abort(f"{type(error).__name__}: {error}")


def prepare_libraries(threads: int) -> None:
    """What the libraries read when they are first imported: threads, and no progress bars."""
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")
    os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1")


def say_mistake(mistake: UserMistake) -> None:
    """Say it, a sentence a line."""
    for sentence in str(mistake).splitlines():
        say(sentence)
