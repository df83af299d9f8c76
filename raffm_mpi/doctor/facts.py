"""What a rank knows of its place: small and plain, so that it travels to all ranks as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from raffm_mpi import __version__
from raffm_mpi.doctor.gpus import GPUs, look_for_gpus
from raffm_mpi.doctor.intent import Intent
from raffm_mpi.doctor.sources import Sources, look_for_sources
from raffm_mpi.exchange.launcher import Launcher
from raffm_mpi.exchange.openmpi import finds_failed_nodes
from raffm_mpi.exchange.probe import describe_mpi
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.versions import versions


@dataclass(frozen=True)
class MPILibrary:
    """The MPI library of a rank: its release, file, standard and thread level."""

    library: str
    path: str
    standard: str
    thread_level: str


@dataclass(frozen=True)
class Facts:
    """What one rank knows; ``mpi`` is None where no library could be loaded, ``sources`` on all but one of a host."""

    rank: int
    size: int
    host: str
    mpi: MPILibrary | None = None
    launcher: Launcher = field(default_factory=Launcher)
    survives_failures: bool = False
    finds_failed_nodes: bool = False
    cpus: tuple[int, ...] = ()  # that this process may run on
    host_cpus: int = 1  # that there are
    gpus: GPUs = field(default_factory=GPUs)
    versions: dict[str, str] = field(default_factory=dict)
    sources: Sources | None = None

    @property
    def trains(self) -> bool:
        """Whether this rank is a client group, as every rank but the server is, and a lone process."""
        return self.rank > 0 or self.size == 1

    @property
    def place(self) -> str:
        """The rank by number and host."""
        return f"rank {self.rank} on {self.host}"

    def to_json(self) -> str:
        """As one line."""
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """From that line."""
        return _ADAPTER.validate_json(text)


_ADAPTER = TypeAdapter(Facts)


def gather_facts(intent: Intent, ranks: Ranks, has_mpi: bool) -> list[Facts]:
    """The facts of every rank, on every rank; ``has_mpi`` is whether an MPI library is loaded."""
    first_of_host = ranks.node_rank == 0
    own = Facts(
        rank=ranks.rank,
        size=ranks.size,
        host=ranks.host,
        mpi=MPILibrary(**describe_mpi()) if has_mpi else None,
        launcher=Launcher.of(os.environ),
        survives_failures=ranks.survives_failures,
        finds_failed_nodes=ranks.survives_failures and finds_failed_nodes(),
        cpus=tuple(sorted(os.sched_getaffinity(0))),
        host_cpus=os.cpu_count() or 1,
        gpus=look_for_gpus(intent.settings.compute, ranks.device_index, first_of_host and has_mpi),
        versions={"raffm_mpi": __version__, **versions()},
        sources=look_for_sources(intent) if first_of_host else None,
    )
    return [Facts.from_json(line) for line in ranks.describe(own.to_json())]
