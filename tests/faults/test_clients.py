"""A client whose training comes to nothing is dropped from the round by name and reason, and the round goes on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from raffm_mpi.config import SGDTraining
from raffm_mpi.data import UnreadableExample
from raffm_mpi.learning.training import Processor, TrainingFault, is_out_of_memory, train
from raffm_mpi.log import open_run
from support.warm_server import warm_python

PROGRAM = Path(__file__).parent / "programs" / "bad_clients.py"
CPU = Processor(torch.device("cpu"))
ALL = ["federation.participation=1.0", "federation.num_rounds=2"]


class Line(nn.Module):
    """A line through one weight, with a mean squared error; its batch may be unreadable."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, labels):
        return type("Output", (), {"loss": (self.weight * x - labels).square().mean()})


class Points:
    """Split of ten points."""

    def batch(self, rows):
        if 7 in rows:
            raise UnreadableExample("data.path: split 'train', row 7: the image cannot be decoded")
        return {"x": torch.from_numpy(rows).double(), "labels": torch.ones(len(rows)).double()}


def trained(rows, micro_batches=1, **settings):
    model = Line().double()
    given = SGDTraining(**{"batch_size": 5, "learning_rate": 0.01, **settings})
    key = {"seed": 0, "round_number": 0, "client": 0}
    result = train(model, Points(), np.array(rows), given, CPU, **key, micro_batches=micro_batches)
    return result, float(model.weight.detach())


def test_batches_in_parts_train_to_what_whole_ones_do():
    (whole, weight), (parts, other) = trained([0, 1, 2, 3, 4, 5, 6]), trained([0, 1, 2, 3, 4, 5, 6], micro_batches=2)
    assert whole.num_steps == parts.num_steps == 2
    assert other == pytest.approx(weight, rel=1e-12)
    assert parts.mean_loss == pytest.approx(whole.mean_loss, rel=1e-12)


@pytest.mark.parametrize(
    ("rows", "settings", "why"),
    [
        ([], {}, "it has no examples"),
        ([5, 7], {}, "split 'train', row 7: the image cannot be decoded"),
        ([4, 5, 6], {"learning_rate": 1e300, "local_steps": 4}, "its loss is inf at step 2 of 4"),
    ],
)
def test_what_came_to_nothing_says_why(rows, settings, why):
    with pytest.raises(TrainingFault, match=why):
        trained(rows, **settings)


def test_an_allocator_that_refuses_is_out_of_memory_and_other_errors_are_not():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def run_bad(mpirun, config, output, ranks, *arguments):
    return mpirun(ranks, *warm_python(), PROGRAM, "run", config, f"output={output}", *arguments)


def test_bad_clients_are_dropped_or_retried_by_name_and_the_others_give_the_same_bits(mpirun, config, tmp_path):
    runs = []
    for ranks in (1, 3):
        result = run_bad(mpirun, config, tmp_path / str(ranks), ranks, *ALL)
        assert result.returncode == 0, result.stderr
        assert "9 clients, 3 dropped" in result.stdout
        runs.append(open_run(tmp_path / str(ranks)))
    for run in runs:
        told = {(row.kind, row.client): re.sub(r" of \d+$", "", row.message) for row in run.events.itertuples()}
        assert told == {
            ("dropped", 1): "its sub-model ran out of memory",
            ("dropped", 3): "its loss is nan at step 1",
            ("dropped", 4): "the update of 'vit.embeddings.cls_token' reaches 1e+06; allowed is at most 64",
            ("retried", 2): "its sub-model ran out of memory; trained again with half batches",
        }
        rows = run.clients.set_index("client")
        assert set(rows["status"][[1, 3, 4]]) == {"dropped"}
        assert rows["micro_batches"][2].tolist() == [2, 2]
        assert (rows["micro_batches"].drop([1, 2]) == 1).all()
        assert run.rounds["num_trained"].tolist() == [9, 9]
    assert runs[0].attributes["final_model_sha256"] == runs[1].attributes["final_model_sha256"]


def test_a_round_with_too_few_clients_is_repeated_with_another_cohort(mpirun, config, tmp_path):
    hashes = set()
    for ranks in (1, 2):
        output = tmp_path / str(ranks)
        arguments = ["federation.participation=0.25", "federation.min_trained=3", "federation.max_repeats=20"]
        result = run_bad(mpirun, config, output, ranks, *arguments)
        assert result.returncode == 0, result.stderr
        with open_run(output) as run:
            assert (run.rounds["num_trained"] == 3).all()
            assert run.rounds["attempt"].sum() == (run.events["kind"] == "repeated").sum() > 0
            bad = {1, 3, 4}
            assert not bad & set(run.clients["client"])
            hashes.add(run.attributes["final_model_sha256"])
    assert len(hashes) == 1


def test_a_run_with_too_few_clients_stops_with_one_sentence_and_its_state_saved(mpirun, config, tmp_path):
    output = tmp_path / "run"
    arguments = ["federation.participation=0.25", "federation.min_trained=3", "federation.max_repeats=0"]
    result = run_bad(mpirun, config, output, 2, *arguments)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "min_trained" in line]
    assert (
        "clients gave an update, allowed are 3 (federation.min_trained) or more; the last was dropped because" in line
    )
    assert "Traceback" not in result.stderr
    with open_run(output) as run:
        assert run.status == "failed"
        assert len(list((output / "checkpoints").iterdir())) == min(len(run.rounds), 2)
