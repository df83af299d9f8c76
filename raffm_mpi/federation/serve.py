"""Rank 0's part of a run: open the log, run the server, leave the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from raffm_mpi.config import Settings
from raffm_mpi.exchange.interruptions import Interruption
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.federation.experiment import Experiment
from raffm_mpi.federation.logbook import claim, close_log, log_start, open_events, open_log
from raffm_mpi.federation.recorder import Display, Recorder
from raffm_mpi.federation.server import Server, dismiss
from raffm_mpi.federation.state import RunState
from raffm_mpi.files import write_text
from raffm_mpi.learning.model import save_model, sha256
from raffm_mpi.log import RunLog
from raffm_mpi.messages import say
from raffm_mpi.recovery.disk import Disk
from raffm_mpi.recovery.resume import Start


def serve(
    experiment: Experiment,
    ranks: Ranks,
    start: Start,
    found: Mapping[str, str],
    places: list[list[str]],
    display: Callable[[int, int], Display],
) -> None:
    """Run all rounds that are left; the log and the model then lie in the output folder, and the groups are let go.

    ``found`` is what identifies model, data and devices (:func:`resume.identity`), ``places`` has the host, the device
    and the cores ("0,1,…") of each rank. Raises Interruption where the run ends early, the log closed.
    """
    settings, output = experiment.settings, Path(experiment.settings.output)
    disk = Disk(ranks.presence, settings.reliability.disk_patience_s)
    say(introduction(settings, ranks))
    try:
        if start.is_new:
            disk.write(lambda: claim(output))
        events = disk.write(lambda: open_events(settings, start))
        log = disk.write(
            lambda: open_log(experiment, ranks, start, found, [(host, device) for host, device, _ in places])
        )
        disk.write(lambda: write_text(output / "config.yaml", settings.to_yaml()))
    except Interruption:
        dismiss(ranks)
        raise
    displays = [display(settings.federation.num_rounds, start.next_round), *events]
    recorder = Recorder(experiment, log, displays, disk, ranks.hosts, start.next_round)
    state = RunState(output, settings.reliability, start, disk)
    server = Server(experiment, ranks, recorder, state, shard_evaluation(settings, places))
    try:
        log_start(recorder, state, start, ranks, [device for _, device, _ in places])
        server.run()
        _leave_model(experiment, server, disk, log)
    except Interruption as interruption:
        close_log(log, recorder, interruption)
        dismiss(ranks)
        raise
    except BaseException:
        with suppress(OSError):
            log.finish("failed")
        raise
    finally:
        for shown in displays:
            shown.close()
    dismiss(ranks)


def _leave_model(experiment: Experiment, server: Server, disk: Disk, log: RunLog) -> None:
    """Write the final model, and its fingerprint."""
    folder, whole = Path(experiment.settings.output) / "model", experiment.whole(server.model.tensors)
    shell, keeps_base = experiment.elastic.shell, experiment.aggregator.keeps_base
    disk.write(lambda: save_model(folder, shell, experiment.layout, whole, keeps_base=keeps_base))
    disk.write(lambda: log.finish("finished", sha256(whole)))


def introduction(settings: Settings, ranks: Ranks) -> str:
    """What the run consists of, and how it goes on after an interruption: the first line that a person reads."""
    hosts = list(dict.fromkeys(ranks.hosts))
    where = hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts"
    num_groups = ranks.size - 1
    who = f"1 server and {num_groups} client group{'s' * (num_groups > 1)}"
    if num_groups == 0:
        who = "server and client group in one process"
    every = settings.reliability.checkpoint_every
    if every is None:
        going_on = "no checkpoints, as reliability.checkpoint_every is null"
    else:
        often = "every round" if every == 1 else f"every {every} rounds"
        going_on = f"checkpoints {often}, so --resume continues an interrupted run"
    if num_groups and ranks.survives_failures:
        going_on += "; if a client group dies, the others take over"
    elif num_groups:
        going_on += " (under mpirun --with-ft ulfm it would even go on without a client group that dies)"
    return f"{who} on {where}; {going_on}"


def shard_evaluation(settings: Settings, places: list[list[str]]) -> bool:
    """Whether the groups evaluate: ``auto`` leaves it to a server that shares neither GPU nor core with a group.

    A server on a CPU beside groups on GPUs would take far longer than they. ``places`` has the host, the device and the
    cores ("0,1,…") of each rank.
    """
    if len(places) == 1:
        return False
    if settings.evaluation.placement != "auto":
        return settings.evaluation.placement == "groups"
    server, *groups = [(device, cpus) for host, device, cpus in places if host == places[0][0]]
    if server[0] != "cpu" or any(device != "cpu" for device, _ in groups):
        return server[0] == "cpu" or any(device == server[0] for device, _ in groups)
    cores = {cpu for _, cpus in [server, *groups] for cpu in cpus.split(",")}
    return len(cores) < (1 + len(groups)) * settings.compute.threads_per_group
