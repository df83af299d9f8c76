"""A run that is asked to stop, that hangs or whose server dies goes on later to the very same result."""

from __future__ import annotations

import random
import re
import shutil
import socket
from pathlib import Path

import pytest

from raffm_mpi.log import open_run
from raffm_mpi.recovery import checkpoint as checkpoints
from support.warm_server import warm_python

PROGRAMS = Path(__file__).parent / "programs"
PLAIN = ()  # mpirun without ULFM


def kinds(output: Path) -> list[str]:
    with open_run(output) as run:
        return run.events["kind"].astype(str).tolist()


@pytest.mark.parametrize(
    "name",
    ["SIGUSR1", pytest.param("SIGTERM", marks=pytest.mark.slow), pytest.param("SIGUSR2", marks=pytest.mark.slow)],
)
def test_a_signal_to_one_rank_stops_all_at_the_next_client_and_any_number_of_ranks_goes_on(
    killed, resume, assert_undisturbed, tmp_path, name
):
    result = killed(3, f"1:training:2:{name}", options=PLAIN)
    assert result.returncode == 75, result.stderr
    assert f"{name} reached rank 1 on {socket.gethostname()}: stopped after 2 of 6 rounds and" in result.stderr
    assert "Traceback" not in result.stderr
    with open_run(tmp_path / "run") as run:
        assert run.status == "interrupted"
        assert len(run.rounds) == 2
    partial = checkpoints.find_partial(tmp_path / "run", checkpoints.find(tmp_path / "run")[0])
    assert 0 < partial.checkpoint.state["num_open"] < 6  # what was trained of round 2 is not trained again
    for ranks in {"SIGTERM": [4], "SIGUSR1": [1, 2], "SIGUSR2": [3]}[name]:
        output = shutil.copytree(tmp_path / "run", tmp_path / f"on_{ranks}")
        result = resume(output, ranks)
        assert result.returncode == 0, result.stderr
        assert "going on after round 2/6" in result.stdout
        assert_undisturbed(output)
        assert kinds(output) == ["interrupted", "resumed"]
        assert not (output / checkpoints.FOLDER / "partial").exists()


@pytest.mark.slow
def test_a_process_alone_stops_between_two_clients_and_two_ranks_go_on(killed, resume, assert_undisturbed, tmp_path):
    result = killed(1, "0:training:3:SIGUSR1", options=PLAIN)
    assert result.returncode == 75, result.stderr
    assert "stopped after 3 of 6 rounds and 1 clients of the next one" in result.stderr
    assert resume(tmp_path / "run", 2).returncode == 0
    assert_undisturbed(tmp_path / "run")


@pytest.mark.slow
def test_a_signal_during_the_last_evaluation_leaves_it_for_the_next_start(killed, resume, assert_undisturbed, tmp_path):
    result = killed(2, "0:evaluation:5:SIGTERM", "evaluation.placement=server", options=PLAIN)
    assert result.returncode == 75, result.stderr
    with open_run(tmp_path / "run") as run:
        assert len(run.rounds) == 6
        assert 5 not in run.evaluation["round"].tolist()
    assert resume(tmp_path / "run", 1, "evaluation.placement=server").returncode == 0
    assert_undisturbed(tmp_path / "run")


@pytest.mark.slow
def test_the_server_killed_at_ten_random_moments_costs_no_result(mpirun, config, resume, assert_undisturbed, tmp_path):
    generator = random.Random(0)
    for number in range(10):
        env = {"KILL_AFTER_S": str(generator.uniform(0.0, 0.7))}
        command = [
            *warm_python(),
            PROGRAMS / "killed_server.py",
            "run",
            config,
            f"output={tmp_path / 'run'}",
            "--resume",
        ]
        result = mpirun((2, 1, 3)[number % 3], *command, env=env)
        assert result.returncode not in (0, 1, 2), result.stderr
        assert "Traceback" not in result.stderr
    result = resume(tmp_path / "run", 2)
    assert result.returncode == 0, result.stderr
    assert_undisturbed(tmp_path / "run")


@pytest.mark.parametrize(
    ("stopped", "silent", "doing", "options"),
    [
        ("1:training:2:SIGSTOP", "rank 1", r"training client \d+", ("--with-ft", "ulfm")),
        pytest.param("0:commit:2:SIGSTOP", "rank 0", "waiting for the others", PLAIN, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_stops_answering_is_named_with_what_it_was_doing_and_the_job_ends(
    killed, resume, assert_undisturbed, tmp_path, stopped, silent, doing, options
):
    result = killed(3, stopped, "reliability.hang_timeout_s=3", options=options)
    assert result.returncode == 75, result.stderr
    assert f"{silent} on {socket.gethostname()} has not answered for" in result.stderr
    assert re.search(f"it was last heard {doing} in round 2", result.stderr)
    assert resume(tmp_path / "run").returncode == 0
    assert_undisturbed(tmp_path / "run")


def test_a_dead_rank_without_ulfm_ends_the_job_which_goes_on_later(killed, resume, assert_undisturbed, tmp_path):
    result = killed(3, "2:training:2", options=PLAIN)
    assert result.returncode not in (0, 2)
    assert "1 server and 2 client groups on" in result.stderr and "under mpirun --with-ft ulfm" in result.stderr
    result = resume(tmp_path / "run", 2)
    assert result.returncode == 0, result.stderr
    assert_undisturbed(tmp_path / "run")
