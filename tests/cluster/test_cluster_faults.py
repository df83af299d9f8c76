"""On a cluster a run goes on without a lost node, or its job is requeued and resumes, to the same bits."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from raffm_mpi.log import open_run
from support.waiting import wait_until

HELD = Path(__file__).parent / "programs" / "held.py"
TESTS = str(Path(__file__).parents[1])  # for support/
HELD_ROUND = 2  # as in support/held.py
TWO_NODES = ("-N2", "-n4", "--ntasks-per-node=2", "--requeue")

SRUN = "srun --mpi=pmix --kill-on-bad-exit=1"
# Without a thread the detector takes a rank for dead that trains, or loads a library, for 4 s between calls of MPI.
MPIRUN = (
    "mpirun --with-ft ulfm --mca mpi_ft_detector true --mca mpi_ft_detector_thread true "
    "--mca mpi_ft_detector_period 1 --mca mpi_ft_detector_timeout 20 --map-by ppr:2:node"
)

# A signal that Slurm sends to the batch shell alone goes on to the run, which stops; 138 is wait's status for it.
FORWARDING = """\
trap 'kill -USR1 $run' USR1
{command} & run=$!
while wait $run; status=$?; [ $status = 138 ]; do :; done
"""
# A node that lost its power keeps the folder of a step's PMIx, and refuses a step of the same job and number. Elsewhere
# such a step has been seen to meet messages of the one before, which crashed a rank in MPI_Init.
FRESH_STEP = "for ((i = 0; i < ${SLURM_RESTART_COUNT:-0}; i++)); do srun --mpi=none true; done\n"
# Two starts again at most, so that a run that never ends well does not go round for ever.
REQUEUEING = """\
echo "start ${{SLURM_RESTART_COUNT:-0}} ended with status $status"
[ $status != 0 ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt 2 ] && scontrol requeue $SLURM_JOB_ID
exit $status
"""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def command(config: Path, output: Path):
    """``command(launcher)``: the run of programs/held.py, which resumes, under a launcher."""
    return lambda launcher: f"{launcher} {sys.executable} {HELD} run {config} output={output} --resume"


@pytest.fixture
def start(cluster, output: Path, tmp_path: Path):
    """``start(script)``: submit a job for two nodes, two ranks a node; returns its id once every group is held."""

    def submit(script: str) -> int:
        job = cluster.submit(script, *TWO_NODES, env={"HELD": str(tmp_path), "PYTHONPATH": TESTS})
        wait_until(lambda: len(list(tmp_path.glob("held-*"))) == 3, lambda: cluster.log(job) + cluster.diagnosis())
        with open_run(output) as run:
            assert run.rounds["round"].tolist() == list(range(HELD_ROUND))
        return job

    return submit


@pytest.fixture
def events(output: Path):
    """``events(kind)``: the messages of the log's events of a kind, in order."""

    def read(kind: str) -> list[str]:
        with open_run(output) as run:
            return run.events[run.events["kind"] == kind]["message"].tolist()

    return read


def groups_on(cluster, node: str) -> list:
    """The ranks' processes on a node."""
    return [p for p in cluster.processes(node) if str(HELD) in p.cmdline() and "python" in Path(p.cmdline()[0]).name]


def statuses(log: str) -> list[int]:
    """The exit statuses of a job's starts, as its script told them."""
    return [int(status) for status in re.findall(r"start \d+ ended with status (\d+)", log)]


def has_status(output: Path, status: str) -> bool:
    with open_run(output) as run:
        return run.status == status


@pytest.mark.slow  # Open MPI 5.0.11 crashes in some MPI_Init beside its detector; supervise starts again, this does not
def test_under_mpirun_a_run_goes_on_without_a_lost_node(
    cluster, start, command, events, output, tmp_path, assert_undisturbed
):
    job = start(f"exec {command(MPIRUN)}")
    cluster.fail_node("n2")
    (tmp_path / "let-go").touch()
    try:
        wait_until(lambda: has_status(output, "finished"), lambda: cluster.log(job))
        assert cluster.info(job)["Restarts"] == "0"
        died = events("recovery")
        assert [re.match(r"rank (\d) on n2 died", message)[1] for message in died] == ["2", "3"]
        assert all("clients that it had are trained again" in message for message in died)
        assert "0 clients" not in died[0]
        assert_undisturbed(output)
    finally:
        cluster.revive_node("n2")
    # mpirun does not end without the node; Slurm, once it knows, starts the job again, which has nothing to do.
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert "is finished already" in cluster.log(job)


def test_under_srun_a_dead_rank_ends_the_job_at_once_and_the_requeued_job_resumes(
    cluster, start, command, events, output, assert_undisturbed
):
    job = start(f"{FRESH_STEP}{command(SRUN)}; status=$?\n{REQUEUEING.format()}")
    ranks = groups_on(cluster, "n2")
    assert len(ranks) == 2
    ranks[1].kill()
    cluster.wait_for_log(job, "ended with status")
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    first, second = statuses(cluster.log(job))
    assert first != 0 and second == 0
    assert cluster.info(job)["Restarts"] == "1"
    assert events("resumed") == ["goes on after round 1 on 4 ranks"]
    assert_undisturbed(output)


@pytest.mark.slow
def test_under_srun_slurm_requeues_the_job_of_a_lost_node_which_resumes(
    cluster, start, command, events, output, assert_undisturbed
):
    job = start(f"{FRESH_STEP}exec {command(SRUN)}")
    cluster.fail_node("n2")
    try:
        cluster.notice_failure("n2")
        cluster.wait(job, states={"PENDING"})
    finally:
        cluster.revive_node("n2")
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert cluster.info(job)["Restarts"] == "1"
    assert events("resumed") == ["goes on after round 1 on 4 ranks"]
    assert_undisturbed(output)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [SRUN, MPIRUN], ids=["srun", "mpirun"])
def test_a_signal_to_the_batch_script_stops_the_run_with_status_75_and_the_requeued_job_resumes(
    cluster, start, command, events, output, assert_undisturbed, launcher
):
    job = start(FORWARDING.format(command=command(launcher)) + REQUEUEING.format())
    cluster.enter("scancel", "--signal=USR1", "--batch", str(job))
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert statuses(cluster.log(job)) == [75, 0]
    assert cluster.info(job)["Restarts"] == "1"
    (interrupted,) = events("interrupted")
    assert re.match(
        rf"SIGUSR1 reached rank \d on n[12]: stopped after {HELD_ROUND} of 6 rounds and \d clients", interrupted
    )
    assert events("resumed") == ["goes on after round 1 on 4 ranks"]
    assert_undisturbed(output)


END = "from raffm_mpi.federation.allocation import end_of_allocation as end; print('end', end())"


def test_the_end_of_the_allocation_is_that_of_the_jobs_time_limit(cluster):
    before = time.time()
    limited = cluster.submit(f'{sys.executable} -c "{END}"', "--time=7")
    unlimited = cluster.submit(f'{sys.executable} -c "{END}"')
    for job in (limited, unlimited):
        assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    end = float(cluster.log(limited).split()[-1])
    assert before - 1 <= end - 7 * 60 <= time.time()  # Slurm's times are whole seconds
    assert cluster.log(unlimited).split() == ["end", "inf"]


@pytest.mark.slow
def test_a_run_stops_by_itself_before_its_allocation_ends(cluster, config, events, output, assert_undisturbed):
    run = f"{sys.executable} -m raffm_mpi run {config} output={output} --resume"
    script = f"{run} reliability.stop_before_end_s=4000; echo status $?; {run}; echo status $?"
    job = cluster.submit(script, "--time=60")
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert re.findall(r"status (\d+)", cluster.log(job)) == ["75", "0"]
    assert events("interrupted") == [
        "the end of the job's allocation is near: stopped after 0 of 6 rounds and 0 clients of the next one"
    ]
    assert events("resumed") == ["goes on at its beginning on 1 ranks"]
    assert_undisturbed(output)


DETECTOR = ("--with-ft", "ulfm", "--mca", "mpi_ft_detector", "true")


def test_the_detector_of_lost_nodes_is_refused_without_a_thread(mpirun, raffm_mpi_command, config, output):
    result = mpirun(2, *raffm_mpi_command("run", config, f"output={output}"), options=DETECTOR)
    assert result.returncode == 2
    assert "add --mca mpi_ft_detector_thread true to mpirun's options" in result.stderr


@pytest.mark.slow
def test_with_the_detector_a_run_that_has_nothing_to_do_ends_with_its_own_status(
    mpirun, raffm_mpi_command, config, undisturbed
):
    options = (*DETECTOR, "--mca", "mpi_ft_detector_thread", "true")
    for arguments, status in (([], 2), (["--resume"], 0)):
        result = mpirun(2, *raffm_mpi_command("run", config, *arguments), options=options)
        assert result.returncode == status, result.stderr
