"""The exchange on real MPI ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.warm_server import warm_python

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 26])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_operation_agrees_with_numpy_and_waiting_ranks_sleep(mpirun, ranks, chunk_bytes):
    result = mpirun(ranks, *warm_python(), PROGRAMS / "operations.py", str(chunk_bytes))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("done") == ranks


def test_more_than_2_to_the_31_bytes_travel_in_bounded_counts(mpirun):
    result = mpirun(2, *warm_python(), PROGRAMS / "large.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("done") == 2
