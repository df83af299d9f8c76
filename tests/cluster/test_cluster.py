"""The tests' cluster is what its users take it for: two hosts, one MPI job over both, nodes that fail and return."""

from __future__ import annotations

import psutil
import pytest

from support.waiting import wait_until

PRINT_WORLD = """
from mpi4py import MPI
world = MPI.COMM_WORLD
hosts = world.allgather(MPI.Get_processor_name())
if world.rank == 0:
    print("world of", world.size, "on", *sorted(hosts))
"""


def test_a_job_runs_on_both_nodes_with_distinct_host_names(cluster):
    job = cluster.submit("srun --mpi=none hostname", "-N2", "-n4", "--ntasks-per-node=2")
    assert cluster.wait(job) == "COMPLETED"
    assert sorted(cluster.log(job).split()) == ["n1", "n1", "n2", "n2"]


def test_the_state_and_exit_status_of_a_failing_script_are_seen(cluster):
    job = cluster.submit("exit 75")
    assert cluster.wait(job) == "FAILED"
    assert cluster.info(job)["ExitCode"] == "75:0"


@pytest.mark.parametrize("launcher", ["srun --mpi=pmix", "mpirun -n 4 --map-by ppr:2:node"], ids=["srun", "mpirun"])
def test_a_launcher_in_a_batch_script_gives_one_world_over_both_nodes(cluster, tmp_path, launcher):
    program = tmp_path / "world.py"
    program.write_text(PRINT_WORLD)
    job = cluster.submit(f"{launcher} python {program}", "-N2", "-n4", "--ntasks-per-node=2")
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert "world of 4 on n1 n1 n2 n2" in cluster.log(job)


def test_a_failed_node_takes_its_processes_with_it_and_returns_for_the_requeued_job(cluster):
    script = "echo start ${SLURM_RESTART_COUNT:-0}; [ $SLURM_RESTART_COUNT ] || srun --mpi=none sleep 100000"
    job = cluster.submit(script, "-N2", "-n2", "--requeue")
    cluster.wait_for_log(job, "start 0")

    def sleepers():
        return {p: name for name in cluster.nodes for p in cluster.processes(name) if p.name() == "sleep"}

    wait_until(lambda: sorted(sleepers().values()) == ["n1", "n2"], cluster.diagnosis)
    before = sleepers()
    cluster.fail_node("n2")
    assert {before[p] for p in before if p.is_running() and p.status() != psutil.STATUS_ZOMBIE} == {"n1"}
    assert cluster.info(job)["JobState"] == "RUNNING"  # nobody has told Slurm

    cluster.notice_failure("n2")
    cluster.wait(job, states={"PENDING"})
    cluster.revive_node("n2")
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert cluster.info(job)["Restarts"] == "1"
    assert "start 1" in cluster.log(job)
