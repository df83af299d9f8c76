"""Ranks with made-up facts, all of them well."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest

from raffm_mpi.doctor.facts import Facts, MPILibrary
from raffm_mpi.doctor.gpus import GPUs
from raffm_mpi.doctor.sources import Sources
from raffm_mpi.exchange.launcher import Launcher
from support.waiting import TIMEOUT_S

VERSIONS = {"raffm_mpi": "0.1.0", "python": "3.12.1", "torch": "2.8.0", "transformers": "5.0.0", "mpi4py": "4.1.0"}


@pytest.fixture
def well():
    """``well(ranks, hosts=1, **same)``: the facts of ranks on hosts, dealt in turns, with ``same`` changed on all."""

    def make(ranks: int, hosts: int = 1, **same: object) -> list[Facts]:
        facts = []
        for rank in range(ranks):
            own = Facts(
                rank=rank,
                size=ranks,
                host=f"n{rank % hosts + 1}",
                mpi=MPILibrary("Open MPI v5.0.11", "/opt/mpi/lib/libmpi.so.40", "3.1", "multiple"),
                launcher=Launcher("mpirun", ranks, rank, "5.0.0") if ranks > 1 else Launcher(),
                survives_failures=ranks > 1,
                finds_failed_nodes=ranks > 1,
                cpus=tuple(range(8)),
                host_cpus=8,
                gpus=GPUs(),
                versions=dict(VERSIONS),
                sources=Sources("https://hub", "/cache", reachable=True) if rank < hosts else None,
            )
            facts.append(replace(own, **same))
        return facts

    return make


@pytest.fixture
def lines():
    """``lines(stdout)``: the doctor's lines by topic, each as (level, the rest)."""

    def read(stdout: str) -> dict[str, tuple[str, str]]:
        return {line[6:20].strip(): (line[:6].strip(), line[20:]) for line in stdout.splitlines()}

    return read


@pytest.fixture
def alone(raffm_mpi_command):
    """``alone(*arguments, **environment)``: the doctor in one process, to its end."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = raffm_mpi_command("doctor", *arguments)
        env = {**os.environ, **environment}
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=env)

    return run
