"""Jobs launched from Python on a real Slurm: results, sweeps, requeues, cancellations and errors reach the caller."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from raffm_mpi.log import open_run
from support.waiting import wait_until

PROLOGUE = """
import json, sys, time
from raffm_mpi.launch import launch
config, output = sys.argv[1:]
def start(*overrides, launcher="mpirun", nodes=2):
    given = [f"output={output}", "reliability.start_timeout_s=180", *overrides]
    return launch(config, given, nodes=nodes, launcher=launcher, cluster="slurm")
def show(**values):
    print(json.dumps(values), flush=True)
def wait_for_round(name="run.h5"):
    from pathlib import Path
    from raffm_mpi.log import open_run
    while not (Path(output) / name).exists() or not open_run(output).num_rows["rounds"]:
        time.sleep(0.2)
"""


@pytest.fixture
def python(cluster, config, tmp_path: Path):
    """``python(program)``: run a caller's program on the login host; returns what it showed, and the run's folder."""

    def run(program: str) -> tuple[dict, Path]:
        output = tmp_path / "run"
        words = [sys.executable, "-c", PROLOGUE + textwrap.dedent(program), str(config), str(output)]
        done = cluster.enter(*words, check=False)
        logs = [f"{path}:\n{path.read_text()}" for path in sorted(output.rglob("*_log.*"))]
        assert done.returncode == 0, "\n".join((done.stdout, done.stderr, *logs, cluster.diagnosis()))
        return json.loads(done.stdout.splitlines()[-1]), output

    return run


def test_a_run_on_two_nodes_returns_its_result(python, undisturbed):
    shown, output = python("""
        [job] = start()
        result = job.result()
        show(sha256=result.final_model_sha256, rounds=result.num_rounds, scores=result.scores)
    """)
    with open_run(undisturbed) as expected, open_run(output) as run:
        assert shown["sha256"] == expected.attributes["final_model_sha256"]
        assert len(set(run.attributes["hosts"])) == 2
    assert shown["rounds"] == 6
    assert set(shown["scores"]) == {"validation", "test"}


def test_a_sweep_is_one_array_with_a_folder_a_point_and_a_table(python):
    shown, output = python("""
        jobs = start("seed=0,1", "training.learning_rate=0.001,0.01", "federation.num_rounds=2", nodes=1)
        results = [job.result() for job in jobs]
        show(jobs=[job.job_id for job in jobs], sha256=[result.final_model_sha256 for result in results])
    """)
    assert len({job.partition("_")[0] for job in shown["jobs"]}) == 1
    assert len(set(shown["sha256"])) == 4
    table = pd.read_csv(output / "sweep.csv")
    assert table[["seed", "training.learning_rate"]].values.tolist() == [[0, 0.001], [0, 0.01], [1, 0.001], [1, 0.01]]
    for name, seed, sha256 in zip(table["run"], table["seed"], shown["sha256"], strict=True):
        with open_run(output / name) as run:
            assert run.config["seed"] == seed
            assert run.attributes["final_model_sha256"] == sha256


@pytest.mark.parametrize("launcher", ["mpirun", pytest.param("srun", marks=pytest.mark.slow)])
def test_a_time_out_requeues_the_job_which_resumes_to_the_same_bits(python, assert_undisturbed, launcher):
    shown, output = python(f"""
        [job] = start("training.local_epochs=2", launcher="{launcher}")
        wait_for_round()
        job._interrupt(timeout=True)
        show(sha256=job.result().final_model_sha256, stderr=job.stderr())
    """)
    assert_undisturbed(output)
    assert "DUE TO JOB REQUEUE" in shown["stderr"]
    with open_run(output) as run:
        kinds = run.events["kind"].tolist()
    assert kinds.count("interrupted") == 1
    assert kinds.count("resumed") == 1


def test_a_cancelled_job_ends_and_leaves_a_run_that_goes_on(python, cluster):
    shown, output = python("""
        [job] = start("federation.num_rounds=1000")
        wait_for_round()
        job.cancel()
        show(job=job.job_id)
    """)
    assert cluster.wait(shown["job"]) == "CANCELLED"

    def commands() -> list[str]:
        return [" ".join(process.cmdline()) for node in cluster.nodes for process in cluster.processes(node)]

    wait_until(lambda: not any("raffm_mpi" in command for command in commands()), "every rank has ended")
    with open_run(output) as run:
        assert run.status in ("running", "interrupted")
        assert 0 < len(run.rounds) < 1000


def test_the_error_of_a_rank_reaches_the_caller_with_rank_and_host(python, tmp_path):
    program = tmp_path / "sitecustomize.py"  # a fault in one rank alone
    program.write_text(
        "import os, sys\n"
        "if os.environ.get('PMIX_RANK') == '2':\n"
        "    import raffm_mpi.federation.client_group as room\n"
        "    def broken(*_): raise RuntimeError('the GPU fell off the bus')\n"
        "    room.ClientGroup.train_round = broken\n"
    )
    shown, _ = python(f"""
        import os
        os.environ["PYTHONPATH"] = {str(tmp_path)!r} + ":" + os.environ.get("PYTHONPATH", "")
        [job] = start()
        show(error=str(job.exception()))
    """)
    assert "ended with status 1" in shown["error"]
    assert "rank 2 of 3 on n2" in shown["error"]
    assert "the GPU fell off the bus" in shown["error"]
