"""Commands for a cluster: what it must offer, what a run will need, and jobs: doctor, forecast, calibrate, launch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raffm_mpi.cli.base import all_ranks, app, prepare_libraries
from raffm_mpi.errors import UserMistake
from raffm_mpi.messages import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from submitit import Job

    from raffm_mpi.devices import Profile
    from raffm_mpi.exchange.ranks import Ranks
    from raffm_mpi.launch.jobs import RunResult


@app.command()
def doctor(
    config: Annotated[str | None, typer.Argument(help="YAML file of settings; left out: the defaults")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value")] = None,
) -> None:
    """Say whether this machine suits a run, and what to do where not; under mpirun or srun it looks at all hosts.

    Exit status: 0 nothing fails, 1 something does, 2 a mistake of yours.
    """
    from raffm_mpi.cli.displays import print_findings
    from raffm_mpi.doctor.examine import examine
    from raffm_mpi.doctor.intent import load_intent
    from raffm_mpi.doctor.meeting import meet
    from raffm_mpi.exchange.interruptions import Interruption

    given = [*([config] if config else []), *(overrides or [])]
    path = given.pop(0) if given and ("=" not in given[0] or Path(given[0]).exists()) else None
    met, flaw = meet()
    with all_ranks(met) as ranks:
        try:
            intent = ranks.together(lambda: load_intent(path, given))
            prepare_libraries(1)
            findings, status = examine(intent, ranks, flaw)
        except Interruption as interruption:
            ranks.abort(f"a rank has failed meanwhile {interruption}".strip())
        if ranks.speaks:
            print_findings(findings)
        ranks.leave(status)


@app.command()
def forecast(
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

    settings = load_settings(config, overrides)
    prepare_libraries(settings.compute.threads_per_group)
    from raffm_mpi.forecast.calibration import Calibration
    from raffm_mpi.forecast.lines import lines
    from raffm_mpi.forecast.needs import Cluster, predict
    from raffm_mpi.forecast.sketch import sketch

    cluster = Cluster(nodes, gpus_per_node)
    measured = Calibration.read(calibration) if calibration else None
    sketched = sketch(settings)
    for line in lines(sketched, predict(sketched, cluster, measured), measured):
        print(line)


app.command("plan", hidden=True, deprecated=True)(forecast)


@app.command()
def calibrate(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, such as configs/demo.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value")] = None,
    output: Annotated[Path, typer.Option(help="The file to write")] = Path("calibration.yaml"),
    profile: Annotated[Path | None, typer.Option(help="Also write this machine as a device profile")] = None,
    like: Annotated[str, typer.Option(help="The device whose links and power that profile takes")] = "dell_xps_15",
) -> None:
    """Measure this node for raffm-mpi forecast: under mpirun, a rank for the server and one for each group of a node.

    In one process all but the exchange between ranks is measured, and this machine can be written as a device profile.
    Exit status: 0 done, 2 a mistake of yours, 1 anything else.
    """
    from raffm_mpi.config import load_settings

    with all_ranks() as ranks:
        settings = ranks.together(lambda: load_settings(config, overrides))
        other = ranks.together(lambda: _profile_of(like, ranks) if profile else None)
        prepare_libraries(settings.compute.threads_per_group)
        from raffm_mpi.devices import write_profile
        from raffm_mpi.forecast.calibrate import calibrate as measure

        found = measure(settings, ranks)
        ranks.together(lambda: found.write(output) if found else None)
        if found:
            alone = "" if found.exchange else "; the exchange was not measured: that takes mpirun and two ranks or more"
            print(f"calibration of {found.num_groups} groups in {output}{alone}")
        if found and profile and other:
            ranks.together(lambda: write_profile(profile, profile.stem, found.profile(other, like)))
            print(f"device {profile.stem} in {profile}: its memory and speed were measured, the rest is of {like}")


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
    from raffm_mpi.launch.jobs import Batch, Resources

    parameters = apply_overrides({}, slurm or [])
    resources = Resources(nodes, gpus_per_node, groups_per_node, launcher, cluster, time_min, max_requeues, parameters)
    batch = Batch.of(config, overrides or (), resources)
    if dry_run:
        print(batch.script())
        return
    submitted = batch.submit()
    for job in submitted:
        print(f"job {job.job_id}: {job.paths.stderr}")
    if wait and not _print_results(submitted):
        raise SystemExit(1)


def _profile_of(like: str, ranks: Ranks) -> Profile:
    """The device that a measured one is like; UserMistake for an unknown one, and where several ranks measure."""
    from raffm_mpi.devices import read_profiles

    if ranks.size > 1:
        raise UserMistake(f"--profile is of one device and takes one process, not {ranks.size} ranks")
    known = read_profiles().profiles
    if like not in known:
        raise UserMistake(f"--like: unknown device '{like}'; known: {', '.join(known)}")
    return known[like]


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
