"""The doctor on two nodes: an srun that does not speak to MPI, nodes that share no folder, and all well."""

from __future__ import annotations

import sys

import pytest

from raffm_mpi.doctor.checks import ULFM

DOCTOR = f"{sys.executable} -m raffm_mpi doctor"
TWO_NODES = ("-N2", "-n4", "--ntasks-per-node=2")


@pytest.fixture
def examined(cluster):
    """``examined(script, state)``: the lines by topic of a job that must end in a state."""

    def run(script: str, state: str) -> dict[str, str]:
        job = cluster.submit(script, *TWO_NODES)
        assert cluster.wait(job) == state, cluster.log(job)
        log = cluster.log(job)
        print(log)
        assert "Traceback" not in log
        lines = [line for line in log.splitlines() if line[:6] in ("ok    ", "warn  ", "fail  ")]
        found = {line[6:20].strip(): line for line in lines}
        assert len(found) == len(lines), log
        return found

    return run


def test_srun_without_pmix_is_found_in_one_table(examined, tmp_path):
    found = examined(f"srun --mpi=none {DOCTOR} output={tmp_path}", "FAILED")
    assert found["launcher"].startswith("fail")
    assert "srun started 4 processes, but each is alone; do: srun --mpi=pmix" in found["launcher"]
    assert found["PMIx"].startswith("fail")


def test_srun_with_pmix_joins_two_hosts_that_share_the_output(examined, tmp_path):
    found = examined(f"srun --mpi=pmix {DOCTOR} output={tmp_path}", "COMPLETED")
    assert "4 ranks on 2 hosts: n1, n2" in found["MPI"]
    assert found["launcher"].startswith("ok") and "srun started 4" in found["launcher"]
    assert found["PMIx"].startswith("ok") and found["large counts"].startswith("ok")
    assert found["log"].startswith("ok") and "the same from 2 hosts" in found["log"]
    assert found["failures"].startswith("warn") and "instead of srun" in found["failures"]
    assert found["failed nodes"].startswith("warn")


def test_mpirun_on_two_hosts_of_which_one_has_the_folder(examined):
    found = examined(f"{ULFM} --map-by ppr:2:node {DOCTOR} output=$TMPDIR", "COMPLETED")
    assert found["launcher"].startswith("ok") and "mpirun started 4" in found["launcher"]
    assert found["failures"].startswith("ok")
    assert found["failed nodes"].startswith("warn") and "do: add --mca mpi_ft_detector true" in found["failed nodes"]
    assert found["log"].startswith("warn") and "is not the same folder on n2" in found["log"]


def test_one_process_in_a_batch_script_is_told_to_take_srun(examined, tmp_path):
    found = examined(f"{DOCTOR} output={tmp_path}", "COMPLETED")
    assert found["launcher"].startswith("warn")
    assert "one process in a Slurm allocation of 4 tasks; do: srun --mpi=pmix" in found["launcher"]
