"""A run from its settings to its results: set up every rank, then serve or train until the last round is committed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raffm_mpi.config import Settings
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.interruptions import Interruption
from raffm_mpi.exchange.transport import Transport
from raffm_mpi.federation.allocation import end_of_allocation
from raffm_mpi.federation.client_group import ClientGroup
from raffm_mpi.federation.experiment import Experiment, Look, look, set_up
from raffm_mpi.federation.logbook import claim, close_log, log_start, open_events, open_log
from raffm_mpi.federation.recorder import Display, Recorder
from raffm_mpi.federation.server import Server, dismiss
from raffm_mpi.federation.state import RunState
from raffm_mpi.files import nearest_existing, write_text
from raffm_mpi.learning.model import save_model, sha256
from raffm_mpi.log import RunLog, tensorboard
from raffm_mpi.messages import say
from raffm_mpi.recovery.disk import Disk
from raffm_mpi.recovery.resume import Start, check_identity, find_start, identity

_SETUP_PATIENCE = 10  # times the settings' patience with a silent rank: preparing a data set gives no sign of life


@dataclass(frozen=True)
class FirstLook:
    """What rank 0 knows before the other ranks load anything: data and model, and where the run begins."""

    look: Look
    start: Start


def look_first(settings: Settings, overwrite: bool) -> FirstLook:
    """What rank 0 finds out before the other ranks load anything, so that most mistakes end a run within seconds.

    Raises UserMistake for an output folder that cannot or must not be written, for a run there that is another one, and
    as :func:`experiment.look`.
    """
    resume = settings.resume == "auto"
    if resume and overwrite:
        raise UserMistake("give --resume (resume: auto) or --overwrite, not both")
    _check_output(Path(settings.output), overwrite, resume)
    if settings.log.tensorboard:
        tensorboard.check_installed()
    start = find_start(settings) if resume else Start()
    return FirstLook(look(settings), start)


def run(
    settings: Settings,
    transport: Transport,
    display: Callable[[int, int], Display],
    overwrite: bool,
    first: FirstLook | None = None,
) -> None:
    """Run a federation on all ranks of the transport; rank 0 leaves the log and the model in ``settings.output``.

    ``first`` is what rank 0 has from :func:`look_first` where it called that already. Raises UserMistake, on every
    rank, for settings that the data, the model or the machine contradict, and Interruption where it ends early.
    """
    presence, reliability = transport.presence, settings.reliability
    presence.begin()
    presence.timeout_s = _SETUP_PATIENCE * reliability.hang_timeout_s
    first = transport.together(lambda: (first or look_first(settings, overwrite)) if transport.rank == 0 else None)
    for remark in first.start.remarks if first else ():
        say(remark)
    if transport.describe("finished" if first and first.start.is_finished else "")[0]:
        if first:
            say(f"the run in '{settings.output}' is finished already")
        return
    experiment = set_up(settings, transport, first.look if first else None)
    found = transport.together(lambda: _identity(experiment, first.start) if first else {})
    cpus = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
    lines = transport.describe(f"{transport.host}\t{experiment.processor.device}\t{cpus}")
    presence.timeout_s = reliability.hang_timeout_s
    presence.catch_signals()
    if first is None:
        ClientGroup(experiment, transport).serve()
        return
    presence.end_time = end_of_allocation() - reliability.stop_before_end_s
    _serve(experiment, transport, first.start, found, [line.split("\t") for line in lines], display)


def _serve(
    experiment: Experiment,
    transport: Transport,
    start: Start,
    found: Mapping[str, str],
    ranks: list[list[str]],
    display: Callable[[int, int], Display],
) -> None:
    """Rank 0's part: open the log, run the server, leave the results."""
    settings, output = experiment.settings, Path(experiment.settings.output)
    disk = Disk(transport.presence, settings.reliability.disk_patience_s)
    say(_how_failures_end(transport))
    try:
        if start.is_new:
            disk.write(lambda: claim(output))
        events = disk.write(lambda: open_events(settings, start))
        log = disk.write(lambda: open_log(experiment, transport, start, found, [(h, device) for h, device, _ in ranks]))
        disk.write(lambda: write_text(output / "config.yaml", settings.to_yaml()))
    except Interruption:
        dismiss(transport)
        raise
    displays = [display(settings.federation.num_rounds, start.next_round), *events]
    recorder = Recorder(experiment, log, displays, disk, transport.hosts, start.next_round)
    state = RunState(output, settings.reliability, start, disk)
    server = Server(experiment, transport, recorder, state, shard_evaluation(settings, ranks))
    try:
        log_start(recorder, state, start, transport, [device for _, device, _ in ranks])
        server.run()
        _leave_model(experiment, server, disk, log)
    except Interruption as interruption:
        close_log(log, recorder, interruption)
        dismiss(transport)
        raise
    except BaseException:
        with suppress(OSError):
            log.finish("failed")
        raise
    finally:
        for shown in displays:
            shown.close()
    dismiss(transport)


def _leave_model(experiment: Experiment, server: Server, disk: Disk, log: RunLog) -> None:
    """Write the final model, and its fingerprint."""
    folder, whole = Path(experiment.settings.output) / "model", experiment.whole(server.model.tensors)
    shell, keeps_base = experiment.elastic.shell, experiment.aggregator.keeps_base
    disk.write(lambda: save_model(folder, shell, experiment.layout, whole, keeps_base=keeps_base))
    disk.write(lambda: log.finish("finished", sha256(whole)))


def _how_failures_end(transport: Transport) -> str:
    if transport.size == 1:
        return "one process does all: if it dies, --resume goes on after the last committed round"
    if transport.survives_failures:
        return "a rank that dies is survived (Open MPI with ULFM); if rank 0 dies, --resume goes on"
    return "a rank that dies ends the job, and --resume goes on; mpirun --with-ft ulfm would survive it"


def _identity(experiment: Experiment, start: Start) -> dict[str, str]:
    found = identity(experiment.model, experiment.model.config, experiment.examples.fingerprint, experiment.fleet)
    check_identity(start, found)
    return found


def _check_output(output: Path, overwrite: bool, resume: bool) -> None:
    """Raise UserMistake unless the output folder is new or empty, or may be written over, and can be written."""
    try:
        if output.exists() and any(output.iterdir()) and not (overwrite or resume):
            raise UserMistake(
                f"output: folder '{output}' exists; add --resume to go on with its run or --overwrite to replace it"
            )
        with tempfile.TemporaryFile(dir=nearest_existing(output)):
            pass
    except OSError as error:
        raise UserMistake(f"output: folder '{output}' cannot be written: {error.strerror}") from None


def shard_evaluation(settings: Settings, ranks: list[list[str]]) -> bool:
    """Whether the groups evaluate: ``auto`` leaves it to a server that shares neither GPU nor core with a group.

    A server on a CPU beside groups on GPUs would take far longer than they.

    ``ranks`` has the host, the device and the cores ("0,1,…") of each.
    """
    if len(ranks) == 1:
        return False
    if settings.evaluation.placement != "auto":
        return settings.evaluation.placement == "groups"
    server, *groups = [(device, cpus) for host, device, cpus in ranks if host == ranks[0][0]]
    if server[0] != "cpu" or any(device != "cpu" for device, _ in groups):
        return server[0] == "cpu" or any(device == server[0] for device, _ in groups)
    cores = {cpu for _, cpus in [server, *groups] for cpu in cpus.split(",")}
    return len(cores) < (1 + len(groups)) * settings.compute.threads_per_group
