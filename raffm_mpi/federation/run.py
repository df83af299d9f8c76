"""The one way into a run: rank 0 looks for mistakes, every rank is set up, then the server serves and groups train.

What takes long to import is imported where it is needed: most mistakes end a run within seconds, before the other ranks
have loaded their libraries.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from raffm_mpi.config import Settings
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.files import nearest_existing
from raffm_mpi.messages import say

if TYPE_CHECKING:
    from raffm_mpi.federation.experiment import Experiment, Look
    from raffm_mpi.federation.recorder import Display
    from raffm_mpi.recovery.resume import Start

_SETUP_PATIENCE = 10  # times the settings' patience with a silent rank: preparing a data set gives no sign of life


def run(settings: Settings, ranks: Ranks, display: Callable[[int, int], Display], overwrite: bool) -> None:
    """Run a federation on all ranks; rank 0 leaves the log and the model in ``settings.output``.

    ``display`` makes what shows the run to people, on rank 0, of the number of rounds and of those that are done.
    Raises SharedMistake for settings that the output folder, the data, the model or the machine contradict, and
    Interruption where the run ends early.
    """
    presence, reliability = ranks.presence, settings.reliability
    presence.begin()
    presence.timeout_s = _SETUP_PATIENCE * reliability.hang_timeout_s
    start = ranks.together(partial(_find_start, settings, overwrite) if ranks.rank == 0 else partial(_wait, ranks))
    for remark in start.remarks if start else ():
        say(remark)
    if ranks.describe("finished" if start and start.is_finished else "")[0]:
        if start:
            say(f"the run in '{settings.output}' is finished already")
        return
    experiment = set_up(settings, ranks)
    from raffm_mpi.federation.allocation import end_of_allocation
    from raffm_mpi.federation.client_group import ClientGroup
    from raffm_mpi.federation.serve import serve

    found = ranks.together(lambda: _identity(experiment, start) if start else {})
    cpus = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
    lines = ranks.describe(f"{ranks.host}\t{experiment.processor.device}\t{cpus}")
    presence.timeout_s = reliability.hang_timeout_s
    presence.catch_signals()
    if start is None:
        ClientGroup(experiment, ranks).serve()
        return
    presence.end_time = end_of_allocation() - reliability.stop_before_end_s
    serve(experiment, ranks, start, found, [line.split("\t") for line in lines], display)


def set_up(settings: Settings, ranks: Ranks) -> Experiment:
    """Build a run on every rank: rank 0 looks, then what must be prepared once is prepared by one rank of each node.

    Raises SharedMistake, on every rank, for settings that the data set, the model or the machine contradict.
    """
    looked = ranks.together(partial(_look, settings) if ranks.rank == 0 else partial(_wait, ranks))
    from raffm_mpi.federation.build import build

    return build(settings, ranks, looked)


def _find_start(settings: Settings, overwrite: bool) -> Start:
    """Rank 0's part: where the run begins.

    Raises UserMistake for an output folder that cannot or must not be written, and for a run there that is another one.
    """
    resume = settings.resume == "auto"
    if resume and overwrite:
        raise UserMistake("give --resume (resume: auto) or --overwrite, not both")
    _check_output(settings.output, overwrite, resume)
    if settings.log.tensorboard:
        from raffm_mpi.log import tensorboard

        tensorboard.check_installed()
    from raffm_mpi.recovery.resume import Start, find_start

    return find_start(settings) if resume else Start()


def _look(settings: Settings) -> Look:
    """Rank 0's part: look at the data set and the model."""
    from raffm_mpi.federation.experiment import look

    return look(settings)


def _wait(ranks: Ranks) -> None:
    """The other ranks' part: import what comes next, or sleep where that would take cores from rank 0."""
    if ranks.node_size <= (os.cpu_count() or 1):
        import_module("raffm_mpi.federation.build").import_libraries()


def _identity(experiment: Experiment, start: Start) -> dict[str, str]:
    from raffm_mpi.recovery.resume import check_identity, identity

    found = identity(experiment.model, experiment.model.config, experiment.examples.fingerprint, experiment.fleet)
    check_identity(start, found)
    return found


def _check_output(name: str, overwrite: bool, resume: bool) -> None:
    """Raise UserMistake unless the output folder is new or empty, or may be written over, and can be written."""
    output = Path(name)
    if "\0" in name:
        raise UserMistake(f"output: {name!r} has a null character, which no path may have")
    try:
        if output.exists() and not output.is_dir():
            raise UserMistake(f"output: '{output}' is a file; a run takes a folder")
        if output.exists() and any(output.iterdir()) and not (overwrite or resume):
            raise UserMistake(
                f"output: folder '{output}' exists; add --resume to go on with its run or --overwrite to replace it"
            )
        with tempfile.TemporaryFile(dir=nearest_existing(output)):
            pass
    except OSError as error:
        raise UserMistake(f"output: folder '{output}' cannot be written: {error.strerror}") from None
