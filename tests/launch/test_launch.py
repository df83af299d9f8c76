"""Runs as jobs on this machine, with no Slurm: results, errors and mistakes reach the caller; a dead run goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from raffm_mpi.errors import UserMistake
from raffm_mpi.launch import launch
from raffm_mpi.launch.jobs import Batch, Resources, RunFailed
from raffm_mpi.log import open_run
from support.waiting import TIMEOUT_S, wait_until


@pytest.fixture
def start(config: Path, tmp_path: Path):
    """``start(*overrides)``: a job of two ranks on this machine."""
    return lambda *overrides: launch(config, [f"output={tmp_path / 'run'}", *overrides], cluster="local", time_min=60)


@pytest.fixture(autouse=True)
def as_root(monkeypatch):
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")


def test_a_local_job_returns_the_result_of_its_run(start, assert_undisturbed, undisturbed, tmp_path):
    [job] = start()
    result = job.result()
    with open_run(undisturbed) as run:
        assert result.final_model_sha256 == run.attributes["final_model_sha256"]
    assert result.num_rounds == 6
    assert_undisturbed(Path(result.output))
    assert Path(result.output) == tmp_path / "run"


HELD = """
import os
if "PMIX_RANK" in os.environ:
    from support.held import hold
    hold()
"""


@pytest.fixture
def held(tmp_path, monkeypatch):
    """The mark that the group leaves where it waits in round 2; see support/held.py."""
    (tmp_path / "sitecustomize.py").write_text(HELD)
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{tests}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HELD", str(tmp_path))
    return tmp_path / "held-1"


def test_a_preempted_local_job_is_started_again_and_resumes(held, start, assert_undisturbed, tmp_path):
    [job] = start()
    wait_until(held.exists, lambda: f"the group waits in round 2: {job.stderr()}")
    [task] = psutil.Process(int(job.job_id)).children()  # submitit's controller has one, which Slurm would signal
    task.send_signal(signal.SIGUSR2)
    assert job.result().num_rounds == 6
    assert_undisturbed(tmp_path / "run")
    assert "preempted" in job.stderr()


def test_what_the_ranks_said_reaches_the_caller(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("of whom?")
    [job] = start()
    error = job.exception()
    assert "ended with status 2" in str(error)
    assert "has config.yaml, but no log run.h5 that says of which run" in str(error)
    assert RunFailed.__name__ in str(error)


@pytest.mark.parametrize(
    ("overrides", "options", "sentence"),
    [
        (["federation.rounds=3"], {}, "federation.rounds: unknown key, did you mean 'num_rounds'?"),
        (["seed=0,,1"], {}, "override 'seed=0,,1': a value of the sweep is empty"),
        (["seed=0,0"], {}, "two points of the sweep would be in one folder 'seed=0'"),
        ([], {"nodes": 0}, "nodes is 0; allowed are whole numbers from 1"),
        ([], {"nodes": 2}, "nodes is 2, but cluster local has one; allowed is 1"),
        ([], {"groups_per_node": 0}, "groups_per_node is 0; allowed are whole numbers from 1"),
        ([], {"launcher": "mpiexec"}, "unknown launcher 'mpiexec'; known: mpirun, srun"),
        ([], {"launcher": "srun"}, "launcher 'srun' needs a Slurm job"),
        ([], {"cluster": "pbs"}, "unknown cluster 'pbs'; known: slurm, local"),
        ([], {"time_min": 0}, "time_min is 0; allowed are whole numbers from 1"),
    ],
)
def test_mistakes_are_refused_before_anything_is_submitted(config, tmp_path, overrides, options, sentence):
    output = tmp_path / "run"
    with pytest.raises(UserMistake, match=re.escape(sentence)):
        launch(config, [f"output={output}", *overrides], **{"cluster": "local", **options})
    assert not output.exists()


def test_a_dry_run_prints_the_command_of_each_run_and_submits_nothing(config, tmp_path):
    resources = Resources(cluster="local", groups_per_node=3)
    lines = Batch.of(config, [f"output={tmp_path / 'run'}", "seed=0,1"], resources).script().splitlines()
    assert ["-n 4 " in line and f"seed={seed}" in line for seed, line in enumerate(lines)] == [True, True]
    assert not (tmp_path / "run").exists()


@pytest.fixture
def supervise(config: Path, tmp_path: Path):
    """``supervise(*arguments)``: the command, started; it is killed with its ranks when the test ends."""
    started = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "raffm_mpi", "supervise", config, f"output={tmp_path / 'run'}", *arguments]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.communicate()


def ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The ranks of a supervised run, the server first."""
    found = [p for p in psutil.Process(process.pid).children(recursive=True) if "python" in Path(p.exe()).name]
    return sorted(found, key=lambda p: int(p.environ()["PMIX_RANK"]))


def wait_for_round(process: subprocess.Popen[str], output: Path, number: int) -> None:
    def is_committed() -> bool:
        assert process.poll() is None
        if not (output / "run.h5").exists():
            return False
        with open_run(output) as run:
            return run.num_rows["rounds"] > number

    wait_until(is_committed, f"round {number} is committed")


def test_a_run_whose_server_dies_is_started_again_in_place(held, supervise, assert_undisturbed, tmp_path):
    process = supervise()
    wait_until(held.exists, "the group waits in round 2")
    ranks(process)[0].kill()
    held.with_name("let-go").touch()
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    assert "it is started again" in said
    assert_undisturbed(tmp_path / "run")


HANGS_ONCE = """
import os, pathlib, time
marker = pathlib.Path(__file__).with_name("hung")
if os.environ.get("PMIX_RANK") == "1" and not marker.exists():
    marker.touch()
    time.sleep(10**6)
"""


def test_a_start_whose_ranks_do_not_meet_is_ended_and_begun_again(supervise, assert_undisturbed, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(HANGS_ONCE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    process = supervise("reliability.start_timeout_s=45")
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    assert "the ranks did not meet within 45 s" in said
    assert said.count("raffm-mpi: starts ") >= 2
    assert_undisturbed(tmp_path / "run")


def test_a_signal_stops_a_supervised_run_with_status_75(supervise, assert_undisturbed, tmp_path):
    process = supervise("federation.num_rounds=1000")
    wait_for_round(process, tmp_path / "run", 0)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, said
    with open_run(tmp_path / "run") as run:
        assert run.status == "interrupted"


def test_a_mistake_ends_a_supervised_run_with_status_2_at_once(supervise):
    process = supervise("method.space.heads=[7]")
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, said
    assert said.count("raffm-mpi: starts ") == 1
