"""Commands that run a federation here, and check what came of it: run, supervise, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raffm_mpi.cli.base import all_ranks, app, prepare_libraries
from raffm_mpi.messages import MET, say

if TYPE_CHECKING:
    from raffm_mpi.federation.recorder import Display


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, such as configs/demo.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the run in an existing output folder")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the output folder, or begin it")] = False,
    supervised: Annotated[bool, typer.Option(help="As supervise starts it: say when all ranks have met")] = False,
) -> None:
    """Run a federation; under mpirun or srun, rank 0 is the server and the others are client groups.

    Exit status: 0 done, 2 a mistake of yours, 75 interrupted with its state saved (start it again with --resume), 1
    anything else.
    """
    from raffm_mpi.config import load_settings
    from raffm_mpi.exchange.interruptions import Interruption, RanksFailed, RankSilent, ServerFailed

    with all_ranks() as ranks:
        if supervised and ranks.rank == 0:
            say(MET)
        try:
            given = [*(overrides or []), *(["resume=auto"] if resume else [])]
            settings = ranks.together(lambda: load_settings(config, given))
            prepare_libraries(settings.compute.threads_per_group)
            from raffm_mpi.federation.run import run as run_federation

            run_federation(settings, ranks, _make_display, overwrite)
            if ranks.rank == 0:
                from raffm_mpi.cli.displays import print_summary

                print_summary(Path(settings.output))
        except RanksFailed:
            ranks.abort("ranks died while the run was set up; start it again with --resume", RanksFailed.exit_status)
        except (ServerFailed, RankSilent) as interruption:
            ranks.abort(f"{interruption}; start it again with --resume", interruption.exit_status)
        except Interruption as interruption:  # of rank 0, which has saved the run and let the groups go
            say(f"{interruption}; --resume goes on")
            ranks.leave(interruption.exit_status)


@app.command()
def supervise(
    config: Annotated[Path, typer.Argument(help="YAML file of settings")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value")] = None,
    launcher: Annotated[str, typer.Option(help="mpirun (survives dead ranks) or srun")] = "mpirun",
    groups_per_node: Annotated[int, typer.Option(min=1, help="Client groups on each node: one a GPU, mostly")] = 1,
    max_requeues: Annotated[int, typer.Option(min=0, help="How often the Slurm job may be requeued")] = 0,
    dry_run: Annotated[bool, typer.Option(help="Only print the command that starts the ranks")] = False,
) -> None:
    """Run a federation on all nodes of this Slurm job, or on this machine: resume it where it dies, requeue the job.

    It stops at the next client on SIGUSR1, SIGUSR2, SIGTERM and SIGINT. Exit status as that of run.
    """
    from raffm_mpi.config import load_settings
    from raffm_mpi.exchange.interruptions import RESUMABLE
    from raffm_mpi.launch.jobs import Federation
    from raffm_mpi.launch.supervise import requeue

    settings = load_settings(config, overrides)
    threads = settings.compute.threads_per_group
    run = Federation(
        str(config),
        tuple(overrides or ()),
        settings.output,
        launcher,
        groups_per_node,
        threads,
        start_timeout_s=settings.reliability.start_timeout_s,
    )
    if dry_run:
        print(run.command())
        return
    supervisor = run.supervisor()
    supervisor.catch_signals()
    status = supervisor.run()
    if status == RESUMABLE:
        requeue(max_requeues)
    raise SystemExit(status)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="The output folder of a run")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Paths that have moved since, for --replay")] = None,
    replay: Annotated[str | None, typer.Option(help="Rounds to run again: N (the first N) or A:B (A to B - 1)")] = None,
) -> None:
    """Check the log and the checkpoints of a run; with --replay, run rounds again and compare the bits.

    Exit status: 0 all is well, 1 it is not, 2 a mistake of yours.
    """
    from raffm_mpi.exchange.lone import LoneRank
    from raffm_mpi.federation import verify as verification

    rounds = verification.parse_rounds(replay) if replay else None
    flaws = verification.verify(run)
    if rounds and not flaws:
        prepare_libraries(_threads_of(run))
        flaws = verification.replay(run, rounds, LoneRank(), overrides or [])
    for flaw in flaws:
        say(flaw)
    if flaws:
        raise SystemExit(1)
    print(f"'{run}' is whole" + (f", and rounds {rounds[0]} to {rounds[1] - 1} come out the same" if rounds else ""))


def _make_display(num_rounds: int, num_done: int) -> Display:
    """What shows a run, on rank 0: the others need not import it."""
    from raffm_mpi.cli.displays import make_display

    return make_display(num_rounds, num_done)


def _threads_of(run: Path) -> int:
    """The threads that a run trained with."""
    from raffm_mpi.log import open_run

    with open_run(run) as log:
        return int(log.config["compute"]["threads_per_group"])
