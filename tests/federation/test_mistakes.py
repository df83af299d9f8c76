"""A user's mistake: one sentence, exit status 2, within seconds, no rank left, nothing lost."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.warm_server import warm_python

MISTAKES = {
    "unknown key": (["training.learning_rat=1"], "training.learning_rat: unknown key, did you mean 'learning_rate'?"),
    "wrong type": (["training.batch_size=many"], "training.batch_size: 'many' is not allowed"),
    "zero participation": (["federation.participation=0"], "federation.participation: 0 is not allowed"),
    "missing data folder": (["data.path=./nowhere"], "data.path: folder './nowhere' does not exist"),
    "missing column": (["data.columns.label=mood"], "data.columns.label: column 'mood' is not in the data set"),
    "model family without a table": (
        ["model={family: mamba}"],
        "model family 'mamba' has no table; known: bert, clip, ",
    ),
    "unknown model key": (["model.config.hiden_size=3"], "model.config.hiden_size: unknown key of family 'bert'"),
    "space wider than the model": (
        ["method={name: raffm, space: {heads: [2, 4]}}"],
        "method.space.heads: 4 is wider than the model, whose head[0] has size 3",
    ),
    "space not dividing heads": (
        ["method={name: raffm, space: {heads: [0.5, 1.0]}}"],
        "method.space.heads: 0.5 of head[0] (size 3) is 1.5, not a whole number",
    ),
    "budget below the space": (
        ["method={name: raffm, budget: {kind: drawn, shares: [0.01]}}"],
        "method.budget.shares: 0.01 is below the smallest sub-model",
    ),
    "more clients than examples": (["federation.num_clients=5000"], "5000 clients are more than the"),
    "output not writable": (["output=/proc/nowhere/run"], "output: folder '/proc/nowhere/run' cannot be written"),
    "bf16 without a GPU": (["compute={precision: bf16, device: cpu}"], "compute.precision: 'bf16' needs a GPU"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_every_rank_with_its_sentence(mpirun, raffm_mpi_command, federations, tmp_path, mistake):
    overrides, sentence = MISTAKES[mistake]
    output = [] if any(o.startswith("output=") for o in overrides) else [f"output={tmp_path / 'run'}"]
    result = mpirun(2, *raffm_mpi_command("run", federations / "bert.yaml", *output, *overrides))
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("raffm-mpi: ")]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_config_is_named(mpirun, raffm_mpi_command):
    result = mpirun(3, *raffm_mpi_command("run", "nowhere.yaml"))
    assert result.returncode == 2
    assert "raffm-mpi: config 'nowhere.yaml' does not exist" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_existing_run_is_kept_unless_it_may_be_overwritten(mpirun, raffm_mpi_command, federations, tmp_path):
    precious = tmp_path / "run" / "run.h5"
    precious.parent.mkdir()
    precious.write_text("an earlier run")
    command = raffm_mpi_command("run", federations / "vit.yaml", f"output={tmp_path / 'run'}")
    result = mpirun(2, *command)
    assert result.returncode == 2
    assert (
        f"output: folder '{tmp_path / 'run'}' exists; add --resume to go on with its run or --overwrite"
        in result.stderr
    )
    assert precious.read_text() == "an earlier run"
    # A mistake found later loses nothing either.
    result = mpirun(2, *command, "--overwrite", "federation.num_clients=5000")
    assert result.returncode == 2
    assert precious.read_text() == "an earlier run"


def test_an_uncaught_error_ends_all_ranks_and_names_rank_host_round_and_client(mpirun, federations, tmp_path):
    program = Path(__file__).parent / "programs" / "failing_client.py"
    config = [federations / "vit.yaml", f"output={tmp_path / 'run'}", "federation.participation=1.0"]
    result = mpirun(4, *warm_python(), program, "run", *config)
    assert result.returncode not in (0, 2)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raffm-mpi: rank ")]
    assert socket.gethostname() in line
    assert "round 0: client 3: the optimiser is broken" in line
    assert "rank 0 " not in line
