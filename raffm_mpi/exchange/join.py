"""How a process comes to its ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping

from raffm_mpi.exchange.launcher import Launcher
from raffm_mpi.exchange.lone import LoneRank
from raffm_mpi.exchange.ranks import Ranks


def join(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks that a launcher started, joined by MPI; this process alone where the environment names no launcher.

    Without a launcher mpi4py is not even imported. Raises UserMistake where a launcher started this process and no MPI
    library can be loaded.
    """
    if not Launcher.of(environment).name:
        return LoneRank()
    from raffm_mpi.exchange.mpi import MPIRanks

    return MPIRanks()
