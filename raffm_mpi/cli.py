"""The command line: ``raffm-mpi run`` and ``raffm-mpi report``."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from raffm_mpi.federation.say import say

if TYPE_CHECKING:
    from raffm_mpi.config import Settings
    from raffm_mpi.federation.run import FirstLook
    from raffm_mpi.federation.transport import Transport

MISTAKE = 2

app = typer.Typer(
    help="Federated fine-tuning of transformers with resource-aware sub-models, on MPI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, such as configs/demo.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the run in an existing output folder")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the output folder, or begin it")] = False,
) -> None:
    """Run a federation; under mpirun or srun, rank 0 is the server and the others are client groups.

    Exit status: 0 done, 2 a mistake of yours, 75 interrupted with its state saved (start it again with --resume), 1
    anything else.
    """
    from raffm_mpi.config import load_settings
    from raffm_mpi.federation.interruptions import Interruption, RankSilent, RanksLost, ServerLost
    from raffm_mpi.federation.transport import Transport, UserMistake

    try:
        transport = Transport()
    except ValueError as error:
        _exit_on_mistake(error)
    try:
        given = [*(overrides or []), *(["resume=auto"] if resume else [])]
        settings = transport.together(lambda: load_settings(config, given))
        _prepare_libraries(settings.compute.threads_per_group)
        first = transport.together(lambda: _look_first(settings, transport, overwrite))
        from raffm_mpi.federation.run import run as run_federation
        from raffm_mpi.progress import make_display, print_summary

        run_federation(settings, transport, make_display, overwrite, first)
        if transport.rank == 0:
            print_summary(Path(settings.output))
        transport.leave(0)
    except UserMistake as mistake:
        _say_mistake(mistake if transport.rank == 0 else None)
        transport.leave(MISTAKE)
    except RanksLost:
        transport.abort("ranks died while the run was set up; start it again with --resume", RanksLost.exit_status)
    except (ServerLost, RankSilent) as interruption:
        transport.abort(f"{interruption}; start it again with --resume", interruption.exit_status)
    except Interruption as interruption:  # of rank 0, which has saved the run and let the groups go
        say(f"{interruption}; --resume goes on")
        transport.leave(interruption.exit_status)
    except SystemExit:
        raise
    except BaseException as error:
        traceback.print_exc()
        transport.abort(f"{type(error).__name__}: {error}")


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="The output folder of a run")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Paths that have moved since, for --replay")] = None,
    replay: Annotated[str | None, typer.Option(help="Rounds to run again: N (the first N) or A:B (A to B - 1)")] = None,
) -> None:
    """Check the log and the checkpoints of a run; with --replay, run rounds again and compare the bits.

    Exit status: 0 all is well, 1 it is not, 2 a mistake of yours.
    """
    from raffm_mpi.federation import verify as verification
    from raffm_mpi.federation.transport import Transport

    try:
        rounds = verification.parse_rounds(replay) if replay else None
        flaws = verification.verify(run)
        if rounds and not flaws:
            _prepare_libraries(_threads_of(run))
            flaws = verification.replay(run, rounds, Transport(), overrides or [])
    except ValueError as error:
        _exit_on_mistake(error)
    for flaw in flaws:
        say(flaw)
    if flaws:
        raise SystemExit(1)
    print(f"'{run}' is whole" + (f", and rounds {rounds[0]} to {rounds[1] - 1} come out the same" if rounds else ""))


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The output folder of a run, or its run.h5")]) -> None:
    """Draw the first picture of a run: accuracy, loss and sub-models."""
    from raffm_mpi.analysis.report import write_report

    try:
        for path in write_report(run):
            print(path)
    except ValueError as error:
        _exit_on_mistake(error)


def _look_first(settings: Settings, transport: Transport, overwrite: bool) -> FirstLook | None:
    """Rank 0 looks for mistakes; the others load their libraries meanwhile, or sleep where cores are short."""
    if transport.rank == 0:
        from raffm_mpi.federation.run import look_first

        return look_first(settings, overwrite)
    if transport.node_size <= (os.cpu_count() or 1):
        from raffm_mpi.federation.experiment import import_ahead

        import_ahead()
    return None


def _prepare_libraries(threads: int) -> None:
    """What the libraries read when they are first imported: threads, and no progress bars."""
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")
    os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1")


def _exit_on_mistake(mistake: Exception) -> NoReturn:
    _say_mistake(mistake)
    raise SystemExit(MISTAKE)


def _say_mistake(mistake: Exception | None) -> None:
    for sentence in str(mistake).splitlines() if mistake else ():
        say(sentence)


def _threads_of(run: Path) -> int:
    """The threads that a run trained with."""
    from raffm_mpi.log import open_run

    with open_run(run) as log:
        return int(log.config["compute"]["threads_per_group"])


def main() -> None:
    """The entry point of ``raffm-mpi`` and ``python -m raffm_mpi``."""
    app()
