"""Options of Open MPI: which ones a run needs, and which ones mpirun was given, as the environment tells."""

from __future__ import annotations

import os

# Open MPI reduces over few ranks in a chain, 8 kB at a time, and each piece waits for a look: on two ranks 5 million
# sums took 2.5 s, on a binomial tree 0.01 s.
DEFAULTS = {"OMPI_MCA_coll_libnbc_ireduce_algorithm": "2"}
# Options that find failed nodes, within 20 s: on a busy node signs of life come late. Without its thread the detector
# takes a rank for dead that trains.
DETECTOR = {
    "mpi_ft_detector": "true",
    "mpi_ft_detector_thread": "true",
    "mpi_ft_detector_period": "2",
    "mpi_ft_detector_timeout": "20",
}


def survives_failures() -> bool:
    """Whether mpirun was started with ``--with-ft ulfm``; nothing that MPI offers tells."""
    return _is_on("mpi_ft_enable")


def finds_failed_nodes() -> bool:
    """Whether Open MPI's detector of failed nodes is on, which mpirun's options turn on."""
    return _is_on("mpi_ft_detector")


def has_detector_thread() -> bool:
    """Whether the detector has a thread of its own."""
    return _is_on("mpi_ft_detector_thread")


def _is_on(option: str) -> bool:
    value = os.environ.get(f"OMPI_MCA_{option}", "")
    return value.lower() in ("1", "t", "true", "enabled", "yes", "y")
