"""What commands share: the application, and how every process of one ends."""

from __future__ import annotations

import os
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

from raffm_mpi.errors import UserMistake
from raffm_mpi.messages import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raffm_mpi.exchange.transport import Transport

MISTAKE = 2

app = typer.Typer(
    help="Federated fine-tuning of transformers with resource-aware sub-models, on MPI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def all_ranks() -> Iterator[Transport]:
    """The ranks of this job for what a command does with them, and how every one of them ends after it."""
    from raffm_mpi.exchange.transport import Transport

    try:
        transport = Transport()
    except UserMistake as error:
        exit_on_mistake(error)
    try:
        yield transport
        transport.leave(0)
    except UserMistake as mistake:
        say_mistake(mistake if transport.rank == 0 else None)
        transport.leave(MISTAKE)
    except SystemExit:
        raise
    except BaseException as error:
        traceback.print_exc()
        transport.abort(f"{type(error).__name__}: {error}")


def prepare_libraries(threads: int) -> None:
    """What the libraries read when they are first imported: threads, and no progress bars."""
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")
    os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1")


def exit_on_mistake(mistake: Exception) -> NoReturn:
    """Say what a user got wrong, and end with status 2."""
    say_mistake(mistake)
    raise SystemExit(MISTAKE)


def say_mistake(mistake: Exception | None) -> None:
    """Say it line by line; None is of a rank that leaves it to another."""
    for sentence in str(mistake).splitlines() if mistake else ():
        say(sentence)
