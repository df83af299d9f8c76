"""The command line of ``raffm-mpi``; what a command needs is imported when it is called."""

from __future__ import annotations

import os
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from raffm_mpi.federation.say import MET, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from submitit import Job

    from raffm_mpi.config import Settings
    from raffm_mpi.federation.run import FirstLook
    from raffm_mpi.federation.transport import Transport
    from raffm_mpi.launch.jobs import RunResult

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
    supervised: Annotated[bool, typer.Option(help="As supervise starts it: say when all ranks have met")] = False,
) -> None:
    """Run a federation; under mpirun or srun, rank 0 is the server and the others are client groups.

    Exit status: 0 done, 2 a mistake of yours, 75 interrupted with its state saved (start it again with --resume), 1
    anything else.
    """
    from raffm_mpi.config import load_settings
    from raffm_mpi.federation.interruptions import Interruption, RankSilent, RanksLost, ServerLost

    with _all_ranks() as transport:
        if supervised and transport.rank == 0:
            say(MET)
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
        except RanksLost:
            transport.abort("ranks died while the run was set up; start it again with --resume", RanksLost.exit_status)
        except (ServerLost, RankSilent) as interruption:
            transport.abort(f"{interruption}; start it again with --resume", interruption.exit_status)
        except Interruption as interruption:  # of rank 0, which has saved the run and let the groups go
            say(f"{interruption}; --resume goes on")
            transport.leave(interruption.exit_status)


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
    from raffm_mpi.federation.interruptions import RESUMABLE
    from raffm_mpi.launch.jobs import Federation
    from raffm_mpi.launch.supervise import requeue

    try:
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
    except ValueError as error:
        _exit_on_mistake(error)
    if status == RESUMABLE:
        requeue(max_requeues)
    raise SystemExit(status)


@app.command()
def launch(
    config: Annotated[Path, typer.Argument(help="YAML file of settings")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change; key=a,b,… makes a run for each combination")
    ] = None,
    nodes: Annotated[int, typer.Option(help="Nodes of each run")] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs of each node")] = 0,
    groups_per_node: Annotated[
        int | None, typer.Option(help="Client groups on each node; one a GPU if left out")
    ] = None,
    launcher: Annotated[str, typer.Option(help="mpirun (survives dead ranks) or srun")] = "mpirun",
    cluster: Annotated[str | None, typer.Option(help="slurm or local; whichever is here if left out")] = None,
    time_min: Annotated[int, typer.Option(help="Limit of a job in minutes; a longer run is requeued and resumes")] = 60,
    max_requeues: Annotated[int, typer.Option(help="How often a job may be requeued for other reasons")] = 10,
    slurm: Annotated[list[str] | None, typer.Option(help="Of Slurm, as key=value: partition, account, mem, …")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the results and print them")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only print what would be submitted")] = False,
) -> None:
    """Submit a run, or a sweep of them, as jobs: to Slurm, or on this machine."""
    from raffm_mpi.config import apply_overrides
    from raffm_mpi.launch.jobs import Batch

    try:
        batch = Batch.of(
            config,
            overrides or (),
            cluster=cluster,
            nodes=nodes,
            gpus_per_node=gpus_per_node,
            groups_per_node=groups_per_node,
            launcher=launcher,
            max_requeues=max_requeues,
        )
        parameters = apply_overrides({}, slurm or [])
        if dry_run:
            print(batch.script(time_min, parameters))
            return
        submitted = batch.submit(time_min, parameters)
    except ValueError as error:
        _exit_on_mistake(error)
    for job in submitted:
        print(f"job {job.job_id}: {job.paths.stderr}")
    if wait and not _print_results(submitted):
        raise SystemExit(1)


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, such as configs/demo.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value")] = None,
    nodes: Annotated[int, typer.Option(help="Nodes that the run shall have")] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="Client groups of each: one a GPU, or a share of the cores")] = 1,
    calibration: Annotated[Path | None, typer.Option(help="What raffm-mpi calibrate measured on one node")] = None,
) -> None:
    """Say what a run will need before it has an allocation: memory, bytes, seconds, node-hours.

    Nothing is prepared or built, and no MPI is needed. Exit status: 0 done, 2 a mistake of yours.
    """
    from raffm_mpi.config import load_settings

    try:
        settings = load_settings(config, overrides)
        _prepare_libraries(settings.compute.threads_per_group)
        from raffm_mpi.planning.calibration import Calibration
        from raffm_mpi.planning.predict import Cluster, predict
        from raffm_mpi.planning.sketch import sketch
        from raffm_mpi.planning.table import lines

        cluster = Cluster(nodes, gpus_per_node)
        measured = Calibration.read(calibration) if calibration else None
        sketched = sketch(settings)
        for line in lines(sketched, predict(sketched, cluster, measured), measured):
            print(line)
    except ValueError as error:
        _exit_on_mistake(error)


@app.command()
def calibrate(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, such as configs/demo.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value")] = None,
    output: Annotated[Path, typer.Option(help="The file to write")] = Path("calibration.yaml"),
) -> None:
    """Measure this node for raffm-mpi plan: under mpirun, a rank for the server and one for each group of a node.

    In one process all but the exchange between ranks is measured. Exit status: 0 done, 2 a mistake of yours, 1 anything
    else.
    """
    from raffm_mpi.config import load_settings

    with _all_ranks() as transport:
        settings = transport.together(lambda: load_settings(config, overrides))
        _prepare_libraries(settings.compute.threads_per_group)
        from raffm_mpi.federation.experiment import look
        from raffm_mpi.planning.calibrate import calibrate as measure

        looked = transport.together(lambda: look(settings) if transport.rank == 0 else None)
        found = measure(settings, transport, looked)
        transport.together(lambda: found.write(output) if found else None)
        if found:
            alone = "" if found.exchange else "; the exchange was not measured: that takes mpirun and two ranks or more"
            print(f"calibration of {found.num_groups} groups in {output}{alone}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The output folder of a run, or its run.h5")]) -> None:
    """Draw the first picture of a run: accuracy, loss and sub-models."""
    from raffm_mpi.analysis.report import write_report

    try:
        for path in write_report(run):
            print(path)
    except ValueError as error:
        _exit_on_mistake(error)


@app.command()
def doctor(
    config: Annotated[str | None, typer.Argument(help="YAML file of settings; left out: the defaults")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value")] = None,
) -> None:
    """Say whether this machine suits a run, and what to do where not; under mpirun or srun it looks at all hosts.

    Exit status: 0 nothing fails, 1 something does, 2 a mistake of yours.
    """
    from raffm_mpi.doctor.examine import examine
    from raffm_mpi.doctor.exchange import join, speaks
    from raffm_mpi.doctor.intent import load_intent
    from raffm_mpi.federation.interruptions import Interruption
    from raffm_mpi.federation.transport import UserMistake
    from raffm_mpi.progress import print_findings

    given = [*([config] if config else []), *(overrides or [])]
    path = given.pop(0) if given and ("=" not in given[0] or Path(given[0]).exists()) else None
    exchange = join()
    try:
        intent = exchange.together(lambda: load_intent(path, given))
        _prepare_libraries(1)
        findings, status = examine(intent, exchange)
        if speaks(exchange):
            print_findings(findings)
        exchange.leave(status)
    except UserMistake as mistake:
        _say_mistake(mistake if speaks(exchange) else None)
        exchange.leave(MISTAKE)
    except Interruption as interruption:
        exchange.abort(f"a rank was lost meanwhile {interruption}".strip())
    except Exception as error:
        exchange.abort(f"{type(error).__name__}: {error}")


@contextmanager
def _all_ranks() -> Iterator[Transport]:
    """The ranks of this job for what a command does with them, and how every one of them ends after it."""
    from raffm_mpi.federation.transport import Transport, UserMistake

    try:
        transport = Transport()
    except ValueError as error:
        _exit_on_mistake(error)
    try:
        yield transport
        transport.leave(0)
    except UserMistake as mistake:
        _say_mistake(mistake if transport.rank == 0 else None)
        transport.leave(MISTAKE)
    except SystemExit:
        raise
    except BaseException as error:
        traceback.print_exc()
        transport.abort(f"{type(error).__name__}: {error}")


def _print_results(submitted: Sequence[Job[RunResult]]) -> bool:
    """Wait for every job and print what it came to; returns whether all finished."""
    failures = 0
    for job in submitted:
        error = job.exception()
        failures += error is not None
        if error is None:
            result = job.result()
            scores = ", ".join(f"{split} {score:.4f}" for split, score in result.scores.items())
            print(f"job {job.job_id}: {result.output}: {result.num_rounds} rounds, {scores}")
        else:
            say(f"job {job.job_id}: {error}")
    return not failures


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
