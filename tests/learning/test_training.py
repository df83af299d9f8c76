"""Local training is plain torch training, and every random number in it is keyed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from made_sets import prepared
from transformers import ViTConfig, ViTForImageClassification

from raffm_mpi.config import AdamWTraining, ComputeSettings, DataSettings, SGDTraining
from raffm_mpi.data import ImageInput
from raffm_mpi.errors import UserMistake
from raffm_mpi.learning.training import Processor, examples_seen, learning_rate, num_steps, train
from raffm_mpi.seeds import generator
from support import tiny

DEVICE = Processor(torch.device("cpu"))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    settings = DataSettings(cache=str(tmp_path_factory.mktemp("cache")))
    return prepared(settings, ImageInput(1, 8, 8, (0.5,), (0.5,))).train


def make_model(dropout=0.0):
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**tiny.VIT, num_labels=10, hidden_dropout_prob=dropout))


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def run(split, model, settings, indices=None, **key):
    indices = np.arange(50) if indices is None else indices
    return train(model, split, indices, settings, DEVICE, **{"seed": 0, "round_number": 0, "client": 0, **key})


@pytest.mark.parametrize("settings", [partial(SGDTraining, momentum=0.9), partial(AdamWTraining, weight_decay=0.1)])
def test_training_on_one_batch_is_plain_torch(split, settings):
    settings = settings(batch_size=50, local_epochs=3, learning_rate=0.01, max_grad_norm=0.5)
    ours, plain = make_model(), make_model()
    result = run(split, ours, settings)
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(plain.parameters(), 0.01, momentum=0.9, fused=True)
    else:
        optimizer = torch.optim.AdamW(plain.parameters(), 0.01, weight_decay=0.1, fused=True)
    losses, order = [], generator(0, "batches", 0, 0)
    for _ in range(3):
        loss = plain(**split.batch(order.permutation(50))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert torch.equal(weights(ours), weights(plain))
    assert (result.num_steps, result.first_loss, result.last_loss) == pytest.approx(
        (3, losses[0], losses[-1]), rel=1e-4
    )
    assert result.mean_loss == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_key_alone_decides_the_bits_dropout_included(split):
    settings = AdamWTraining(batch_size=8)
    first, again = make_model(dropout=0.3), make_model(dropout=0.3)
    run(split, first, settings, client=4)
    torch.rand(17)  # whatever this rank did before
    run(split, again, settings, client=4)
    assert torch.equal(weights(first), weights(again))
    for change in ({"client": 5}, {"round_number": 1}, {"seed": 1}):
        other = make_model(dropout=0.3)
        run(split, other, settings, **{"client": 4, **change})
        assert not torch.equal(weights(first), weights(other)), change


@pytest.mark.parametrize(
    ("settings", "steps", "seen"),
    [
        ({"local_epochs": 2, "batch_size": 20}, 6, 100),
        ({"batch_size": 50}, 1, 50),
        ({"local_steps": 7, "batch_size": 20}, 7, 140),
        ({"local_steps": 4, "batch_size": 80}, 4, 200),
    ],
)
def test_steps_and_examples_are_what_the_settings_say(split, settings, steps, seen):
    settings = AdamWTraining(**settings)
    assert num_steps(settings, 50) == steps
    assert examples_seen(settings, 50) == seen
    assert run(split, make_model(), settings).num_steps == steps


def test_dropout_is_keyed_by_round_and_client(split):
    def state_after(**key):
        run(split, make_model(dropout=0.3), AdamWTraining(batch_size=50), **key)
        return torch.get_rng_state().numpy().tobytes()

    assert state_after(client=4) == state_after(client=4)
    assert len({state_after(), state_after(client=4), state_after(round_number=1), state_after(seed=1)}) == 4


def test_an_epoch_visits_every_example_once(split, monkeypatch):
    visited = []
    batch = split.batch
    monkeypatch.setattr(split, "batch", lambda rows: visited.extend(rows.tolist()) or batch(rows))
    indices = np.arange(100, 137)
    run(split, make_model(), AdamWTraining(batch_size=10, local_epochs=2), indices)
    assert sorted(visited[:37]) == sorted(visited[37:]) == indices.tolist()
    assert visited[:37] != visited[37:]


def test_the_learning_rate_decays_every_so_many_rounds():
    settings = AdamWTraining(learning_rate=1.0, learning_rate_decay=0.98, decay_every_rounds=5)
    assert [learning_rate(settings, number) for number in (0, 4, 5, 9, 10)] == pytest.approx(
        [1.0, 1.0, 0.98, 0.98, 0.98**2]
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UserMistake, match=r"compute.device: 'cuda' was asked for, but torch sees no GPU"):
        Processor.select(ComputeSettings(device="cuda"), 0)
    with pytest.raises(UserMistake, match=r"compute.precision: 'bf16' needs a GPU"):
        Processor.select(ComputeSettings(precision="bf16"), 0)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_groups_take_the_gpus_in_turn_and_a_server_shares_one_unless_told_otherwise():
    chosen = [str(Processor.select(ComputeSettings(), index).device) for index in range(3)]
    assert chosen == ["cuda:0", "cuda:1", "cuda:0"]
    assert str(Processor.select(ComputeSettings(), 2, only_serves=True).device) == "cuda:0"
    apart = ComputeSettings(server_device="cpu", precision="bf16")
    assert Processor.select(apart, 2, only_serves=True) == Processor(torch.device("cpu"), "fp32")
    assert Processor.select(apart, 1) == Processor(torch.device("cuda:1"), "bf16")


def test_the_number_of_threads_is_the_settings():
    before = torch.get_num_threads()
    try:
        Processor.select(ComputeSettings(threads_per_group=2, device="cpu"), 5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
