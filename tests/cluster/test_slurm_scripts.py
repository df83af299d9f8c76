"""The scripts of slurm/ work as they are but for one line: submitted to a real Slurm, they come to the same bits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raffm_mpi.log import open_run

SCRIPTS = Path(__file__).parents[2] / "slurm"
# Nodes, and the launcher that RAFFM_LAUNCHER names; None leaves it out.
RUNS = {"one node": (1, None), "two nodes by mpirun": (2, "mpirun"), "two nodes by srun": (2, "srun")}
# The test cluster has nodes of four CPUs and no GPU; the scripts are for sites with four GPUs a node.
SMALL = ("--cpus-per-task=2", "--gpus-per-node=0")


@pytest.fixture
def submit(cluster, tmp_path: Path):
    """``submit(name, options, *arguments, **variables)``: edit a script's one line and submit it in ``tmp_path``."""

    def run(name: str, options: tuple[str, ...], *arguments: str, **variables: str) -> int:
        script = (SCRIPTS / f"{name}.sbatch").read_text()
        edited, num_edits = re.subn("^#SBATCH --account=my_account$", "#SBATCH --partition=main", script, flags=re.M)
        assert num_edits == 1
        (tmp_path / name).write_text(edited)
        words = ["sbatch", "--parsable", f"--chdir={tmp_path}", *options, str(tmp_path / name), *arguments]
        return int(cluster.enter(*words, env=variables).stdout)

    return run


def said(folder: Path) -> str:
    """Whatever the jobs that were submitted in a folder have printed."""
    return "\n".join(path.read_text() for path in sorted(folder.rglob("*.log")) + sorted(folder.glob("slurm-*.out")))


def sha256(run: Path) -> str:
    with open_run(run) as log:
        return log.attributes["final_model_sha256"]


def test_every_script_runs_to_the_same_bits(cluster, submit, config, undisturbed, tmp_path):
    jobs = {}
    for name, (num_nodes, launcher) in RUNS.items():
        variables = {"RAFFM_LAUNCHER": launcher} if launcher else {}
        jobs[name] = submit("run", (*SMALL, f"--nodes={num_nodes}"), str(config), **variables)
    two_rounds = (str(config), "federation.num_rounds=2")
    sweep = submit("run", (*SMALL, "--array=0-1"), *two_rounds, RAFFM_POINTS="seed=0 seed=1")
    for name, job in jobs.items():
        assert cluster.wait(job) == "COMPLETED", f"{name}: {said(tmp_path)}"
        run = tmp_path / "runs" / f"raffm-{job}"
        assert sha256(run) == sha256(undisturbed)
        with open_run(run) as log:
            num_nodes, launcher = RUNS[name]
            assert len(set(log.attributes["hosts"])) == num_nodes
            assert log.attributes["num_ranks"] == num_nodes + 1
            assert log.config["compute"]["threads_per_group"] == 1
        printed = (run / "job.log").read_text()
        assert "finished 6 rounds" in printed
        assert re.search(rf"starts \S*/{launcher or 'mpirun'} ", printed)
    points = []
    for index in range(2):
        assert cluster.wait(f"{sweep}_{index}") == "COMPLETED", said(tmp_path)
        points.append(tmp_path / "runs" / f"raffm-{sweep}" / f"seed={index}")
    assert sha256(points[0]) != sha256(points[1])

    analysis = submit("analysis", ("--mem=0",), str(tmp_path / "runs" / f"raffm-{jobs['one node']}"))
    assert cluster.wait(analysis) == "COMPLETED", said(tmp_path)
    assert (tmp_path / "runs" / f"raffm-{jobs['one node']}" / "report" / "report.html").stat().st_size > 100_000


def test_a_script_whose_run_is_a_mistake_fails_with_status_2_and_its_sentence(cluster, submit, config, tmp_path):
    job = submit("run", SMALL, str(config), "federation.rounds=3")
    assert cluster.wait(job) == "FAILED"
    assert cluster.info(job)["ExitCode"] == "2:0"
    assert "federation.rounds: unknown key, did you mean 'num_rounds'?" in said(tmp_path)


@pytest.mark.parametrize(
    ("points", "sentence"),
    [({}, "an array needs RAFFM_POINTS"), ({"RAFFM_POINTS": "seed=0"}, "RAFFM_POINTS has fewer words than the array")],
    ids=["none", "too few"],
)
def test_an_array_without_a_point_for_each_element_fails_with_a_sentence(
    cluster, submit, config, tmp_path, points, sentence
):
    job = submit("run", (*SMALL, "--array=1"), str(config), **points)
    assert cluster.wait(f"{job}_1") == "FAILED"
    assert sentence in said(tmp_path)
    assert not (tmp_path / "runs").exists()
