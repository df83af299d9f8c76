"""The examination: all ranks gather and try, rank 0 judges."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from raffm_mpi.doctor import checks, machine
from raffm_mpi.doctor.facts import Facts, gather_facts
from raffm_mpi.doctor.findings import Finding, exit_status, fail, listed, ok
from raffm_mpi.doctor.folder import Folder, try_folder
from raffm_mpi.doctor.intent import Intent
from raffm_mpi.errors import UserMistake, sentence
from raffm_mpi.exchange.chunks import CHUNK_BYTES
from raffm_mpi.exchange.launcher import srun_plugins
from raffm_mpi.exchange.ranks import Ranks

_NUM_VALUES = 3 * CHUNK_BYTES // 8 + 5  # of the transfer that is tried: some chunks and a part of one


def examine(intent: Intent, ranks: Ranks, flaw: Finding | None) -> tuple[list[Finding], int]:
    """Rank 0's findings, one a topic (none elsewhere), and the exit status, which all ranks share.

    ``flaw`` is what is wrong with MPI, as :func:`meeting.meet` found it.
    """
    facts = gather_facts(intent, ranks, has_mpi=flaw is None)
    wrong = try_transfer(ranks)
    folder = try_folder(intent.place, intent.settings.log.file_locking, ranks)
    findings = list(_judge(intent, flaw, facts, wrong, folder)) if folder else []
    return findings, int(ranks.describe(str(exit_status(findings)))[0])


def try_transfer(ranks: Ranks) -> list[str]:
    """Move numbers as a run moves models and sums, in chunks; a sentence for each rank that has others then."""
    values = np.arange(_NUM_VALUES, dtype=np.int64) * 2654435761
    model = values.copy() if ranks.rank == 0 else np.zeros_like(values)
    ranks.broadcast(model)
    sums = values + ranks.rank
    ranks.reduce(sums)
    right = np.array_equal(model, values)
    if ranks.rank == 0:
        right = right and np.array_equal(sums, ranks.size * values + sum(range(ranks.size)))
    return [text for text in ranks.describe("" if right else f"rank {ranks.rank} on {ranks.host}") if text]


def check_transfer(size: int, wrong: Sequence[str]) -> Finding:
    """Whether the numbers came out right: then so do more than 2^31 bytes, as no count nears that."""
    if wrong:
        return fail(
            "large counts",
            f"numbers that were sent in chunks came out wrong on {listed(wrong)}",
            "another transport of MPI (with Open MPI --mca pml ob1 --mca btl self,sm,tcp), and tell its maintainers",
        )
    if size == 1:
        return ok("large counts", "nothing travels in one process")
    sent = f"{_NUM_VALUES * 8 / 1e6:.1f} MB came out right in chunks of {CHUNK_BYTES / 1e6:.1f} MB"
    return ok("large counts", f"{sent}; no count nears 2^31, whatever the model's size")


def needed_bytes(intent: Intent) -> int:
    """What a run leaves in its folder at most: checkpoints, one more while it is written, sums in int64, the model.

    Raises UserMistake for a model that cannot be found.
    """
    reliability = intent.settings.reliability
    checkpoints = reliability.checkpoints_kept + 1 if reliability.checkpoint_every else 0
    return 4 * _num_parameters(intent) * (checkpoints + 2 + 1)


def _num_parameters(intent: Intent) -> int:
    import torch
    from transformers import AutoModel

    from raffm_mpi.data import Columns, DataInfo
    from raffm_mpi.learning.model import load_config

    config = load_config(intent.settings.model, DataInfo("causal_lm", Columns(), (), ()))  # a head counts for little
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())


def _judge(
    intent: Intent, flaw: Finding | None, facts: Sequence[Facts], wrong: Sequence[str], folder: Folder
) -> Iterator[Finding]:
    settings = intent.settings
    if flaw:
        yield flaw
    else:
        plugins = srun_plugins() if len(facts) == 1 else []
        yield checks.check_mpi(facts)
        yield checks.check_launcher(facts, plugins)
        yield checks.check_pmix(facts, plugins)
        yield checks.check_thread_level(facts)
        yield checks.check_failures(facts)
        yield checks.check_failed_nodes(facts)
        yield check_transfer(len(facts), wrong)
    yield checks.check_versions(facts)
    yield machine.check_cores(facts, settings.compute.threads_per_group)
    yield machine.check_gpus(facts, settings.compute)
    yield machine.check_gpu_aware(facts, settings.compute)
    yield machine.check_hdf5(folder)
    yield machine.check_log_folder(folder, settings.log.file_locking, os.environ.get("HDF5_USE_FILE_LOCKING"))
    yield _check_space(intent, facts[0])
    yield machine.check_sources(facts)


def _check_space(intent: Intent, own: Facts) -> Finding:
    place, name = intent.place, intent.settings.model.name
    lost = own.sources and not own.sources.reachable and name in own.sources.not_cached  # asking for it would take long
    try:
        needed = needed_bytes(intent) if intent.has_model and not lost else None
    except UserMistake as error:
        return fail("space", sentence(error), "correct the settings of the model")
    return machine.check_space(str(place), shutil.disk_usage(place).free, needed)
