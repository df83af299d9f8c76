"""A run from the command line to its log: what is recorded is what happened."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from raffm_mpi.log import open_run
from support.waiting import TIMEOUT_S
from support.warm_server import warm_python

POISONED = Path(__file__).parent / "programs" / "poisoned_client.py"


@pytest.fixture(scope="module")
def finished(federations, tmp_path_factory):
    """One run of the image federation on one rank, with every sub-model evaluated after every round."""
    output = tmp_path_factory.mktemp("finished") / "run"
    command = [*warm_python(), "-m", "raffm_mpi", "run", federations / "vit.yaml", f"output={output}"]
    result = subprocess.run(
        [*map(str, command), "evaluation.submodels=always"], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert result.returncode == 0, result.stderr
    return output, result.stdout


def test_the_tables_agree_with_each_other(finished):
    run = open_run(finished[0])
    assert run.attributes["status"] == "finished"
    assert list(run.rounds["round"]) == [0, 1]
    for number, clients in run.clients.groupby("round"):
        row = run.rounds.iloc[number]
        assert len(clients) == row["num_clients"] == 6
        assert clients["client"].nunique() == 6
        assert row["bytes_down"] == clients["bytes_down"].sum() == 4 * clients["parameters"].sum()
        weighted = np.average(clients["mean_loss"], weights=clients["num_examples"])
        assert row["train_loss"] == pytest.approx(weighted)
        known = run.submodels.set_index("submodel").loc[clients["submodel"], "parameters"]
        assert list(known) == list(clients["parameters"])
    sizes = run.partition.set_index("client")["num_examples"]
    assert list(sizes.loc[run.clients["client"]]) == list(run.clients["num_examples"])
    assert run.groups["num_clients"].tolist() == [6, 6]


def test_the_full_model_and_its_ladder_are_evaluated(finished):
    run = open_run(finished[0])
    evaluation = run.evaluation
    assert set(evaluation["split"]) == {"validation", "test"}
    assert len(evaluation[(evaluation["round"] == 0) & (evaluation["split"] == "validation")]) == 4
    assert len(evaluation[evaluation["split"] == "test"]) == 4  # after the last round only
    assert evaluation["score"].between(0, 1).all()
    assert run.main_metric == "accuracy"
    metrics = run.metrics.pivot(index=["round", "submodel", "split"], columns="metric", values="value")
    assert set(metrics.columns) == {"accuracy", "f1_macro", "f1_weighted"}
    assert metrics["accuracy"].tolist() == evaluation.set_index(metrics.index.names)["score"][metrics.index].tolist()


def test_clients_shares_of_the_test_split_add_up_to_it(finished):
    run = open_run(finished[0])
    on_test = run.evaluation[run.evaluation["split"] == "test"].set_index("submodel")
    assert run.personal["submodel"].tolist() == on_test.index.tolist()
    for row in run.personal.itertuples():
        clients = run.client_scores[run.client_scores["submodel"] == row.submodel]
        assert row.num_clients == len(clients) == clients["client"].nunique()
        assert clients["num_examples"].sum() == on_test.loc[row.submodel, "num_examples"]
        hits = (clients["score"] * clients["num_examples"]).sum()
        assert hits == pytest.approx(on_test.loc[row.submodel, "score"] * on_test.loc[row.submodel, "num_examples"])
        assert row.mean == pytest.approx(clients["score"].mean())
        ordered = np.sort(clients["score"])
        tenth = -(-len(ordered) // 10)
        assert row.worst_tenth == pytest.approx(ordered[:tenth].mean())
        assert row.best_tenth == pytest.approx(ordered[-tenth:].mean())


def test_the_saved_model_loads_and_has_the_logged_hash(finished):
    from transformers import AutoModelForImageClassification

    from raffm_mpi.learning.model import sha256

    model = AutoModelForImageClassification.from_pretrained(finished[0] / "model")
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert sha256(tensors) == open_run(finished[0]).attributes["final_model_sha256"]


def test_the_log_describes_the_run(finished):
    output, _ = finished
    attributes = open_run(output).attributes
    resolved = yaml.safe_load((output / "config.yaml").read_text())
    assert yaml.safe_load(attributes["config"]) == resolved
    assert resolved["method"]["salience"] == "all"  # defaults are written out
    versions = attributes["versions"]
    versions = json.loads(versions) if isinstance(versions, str) else versions
    assert {"torch", "transformers", "mpi4py", "mpi"} <= set(versions)


def test_a_pipe_gets_one_plain_line_a_round_and_a_summary(finished):
    lines = finished[1].splitlines()
    assert [line[:10] for line in lines[:2]] == ["round 1/2:", "round 2/2:"]
    assert "\x1b" not in finished[1]
    assert any(line.startswith("log") and line.endswith("run.h5") for line in lines)


def run_on(mpirun, raffm_mpi_command, ranks, config, output, *overrides):
    result = mpirun(ranks, *raffm_mpi_command("run", config, f"output={output}", *overrides))
    assert result.returncode == 0, result.stderr
    return open_run(output)


def test_evaluation_is_the_same_on_the_server_and_over_the_groups(
    mpirun, raffm_mpi_command, federations, tmp_path, finished
):
    small = ["evaluation.submodels=always", "evaluation.batch_size=7"]
    runs = [
        run_on(
            mpirun,
            raffm_mpi_command,
            3,
            federations / "vit.yaml",
            tmp_path / where,
            f"evaluation.placement={where}",
            *small,
        )
        for where in ("server", "groups")
    ]
    first, second = (run.evaluation.drop(columns="seconds") for run in runs)
    assert first.equals(second)
    hashes = {run.attributes["final_model_sha256"] for run in (*runs, open_run(finished[0]))}
    assert len(hashes) == 1  # and evaluation never touches the model
    assert runs[0].groups["group"].tolist() == [0, 1, 0, 1]
    assert (runs[0].groups["predicted_s"] > 0).all()
    assert (runs[0].rounds["exchange_bytes"] > 0).all()


def test_a_poisoned_client_is_dropped_by_name_and_the_round_goes_on(mpirun, federations, tmp_path):
    runs = []
    for ranks in (1, 3):
        output = tmp_path / str(ranks)
        config = [federations / "vit.yaml", f"output={output}", "federation.participation=1.0"]
        result = mpirun(ranks, *warm_python(), POISONED, "run", *config)
        assert result.returncode == 0, result.stderr
        assert "11 clients, 1 dropped" in result.stdout
        runs.append(open_run(output))
    for run in runs:
        dropped = run.clients[run.clients["status"] == "dropped"]
        assert dropped["client"].tolist() == [3, 3]
        assert run.events["client"].tolist() == [3, 3]
        assert "the update of 'vit.embeddings.cls_token' is not finite" in run.events["message"].iloc[0]
        assert run.rounds["num_trained"].tolist() == [11, 11]
        assert run.evaluation["loss"].notna().all()
    assert runs[0].attributes["final_model_sha256"] == runs[1].attributes["final_model_sha256"]


def test_the_official_arithmetic_differs_and_is_as_independent_of_ranks(
    mpirun, raffm_mpi_command, federations, tmp_path, finished
):
    hashes = [
        run_on(
            mpirun,
            raffm_mpi_command,
            ranks,
            federations / "vit.yaml",
            tmp_path / str(ranks),
            "aggregation=official",
        ).attributes["final_model_sha256"]
        for ranks in (1, 3)
    ]
    assert hashes[0] == hashes[1] != open_run(finished[0]).attributes["final_model_sha256"]
