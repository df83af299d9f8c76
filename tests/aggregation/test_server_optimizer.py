"""Server optimisers: each formula by hand, untouched where nobody trained, and the same wherever an entry lies.

Torch descends on the pseudo-gradient -D, so the m of its state has the other sign.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from raffm_mpi.aggregation.exact import ExactSum, apply_update
from raffm_mpi.aggregation.server_optimizer import MeanUpdate, make_server_optimizer
from raffm_mpi.config import AnyServer
from raffm_mpi.elastic.labels import FULL, Layout, parse, union, within
from raffm_mpi.elastic.packing import pack
from raffm_mpi.errors import UserMistake
from raffm_mpi.federation.server_update import reorder

NAMES = ["fedavgm", "fedadagrad", "fedadam", "fedyogi"]
PAIR = Layout({"w": parse("unit")}, {"w": (2,)}, {"unit": 2})
# Sizes at which torch's vectors and threads would show, if they did.
LAYOUT = Layout(
    {
        "fc1": parse("ffn residual"),
        "fc2": parse("residual ffn"),
        "bias": parse("ffn"),
        "temperature": (),
        "positions": parse(". token residual"),
    },
    {"fc1": (37, 5), "fc2": (5, 37), "bias": (37,), "temperature": (), "positions": (1, 9001, 5)},
    {"ffn": 37, "residual": 5, "token": 9001},
)


def make(layout, name, **values):
    return make_server_optimizer(TypeAdapter(AnyServer).validate_python({"optimizer": name, **values}), layout)


def aggregate(tensors, layout, optimizer, clients):
    """One round: ``clients`` are pairs of a selection and the full model's update, of which each gives its part."""
    selections = [selection for selection, _ in clients]
    weights = [3 + number for number in range(len(clients))]
    envelope = union(layout, selections)
    total = ExactSum.zeros(layout.restrict(envelope), sum(weights))
    for (selection, update), weight in zip(clients, weights, strict=True):
        total.add(within(envelope, selection), layout.take(update, selection), weight)
    apply_update(tensors, layout, total, envelope, selections, weights, optimizer)


def after(name, updates, **values):
    """The pair (1, 2) after each of some updates, and the optimizer."""
    optimizer, tensors, found = make(PAIR, name, **values), {"w": torch.tensor([1.0, 2.0])}, []
    for update in updates:
        aggregate(tensors, PAIR, optimizer, [(FULL, {"w": torch.tensor(update)})])
        found.append(tensors["w"].tolist())
    return found, {key: tensor.tolist() for key, tensor in optimizer.state().items()}


def random_tensors(seed, scale):
    generator = np.random.default_rng(seed)
    return {n: torch.tensor(generator.normal(0, scale, s), dtype=torch.float32) for n, s in LAYOUT.shapes.items()}


def bits(tensors):
    return {name: tensor.clone().view(torch.int32) for name, tensor in tensors.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_fedavgm_by_hand():
    """Hsu et al. (2019): m = momentum m + D, x += learning_rate m."""
    found, state = after("fedavgm", [[0.5, -0.25], [0.25, 0.5]], learning_rate=0.5, momentum=0.5)
    # m = (0.5, -0.25), then (0.25 + 0.25, -0.125 + 0.5)
    assert found == [[1.25, 1.875], [1.5, 2.0625]]
    assert state == {"momentum_buffer.w": [-0.5, -0.375], "step.w": 2.0}


def test_fedavgm_without_momentum_adds_the_mean():
    found, _ = after("fedavgm", [[0.5, -0.25], [0.25, 0.5]], momentum=0.0)
    assert found == [[1.5, 1.75], [1.75, 2.25]]


def test_fedadagrad_by_hand():
    """Reddi et al. (2021): v = v + D^2 from tau^2, x += learning_rate D / (sqrt(v) + tau)."""
    found, state = after("fedadagrad", [[1.0, -1.8], [3.0, 0.0]], learning_rate=0.1, tau=0.75)
    # v = 0.5625 + (1, 3.24) = (1.25^2, 1.95^2), then (1.5625 + 9, the same) = (3.25^2, 1.95^2)
    assert found[0] == pytest.approx([1 + 0.1 * 1 / 2, 2 - 0.1 * 1.8 / 2.7])
    assert found[1] == pytest.approx([1.05 + 0.1 * 3 / 4, 2 - 0.1 * 1.8 / 2.7])
    assert state["sum.w"] == pytest.approx([10.5625, 3.8025])


def test_fedadam_by_hand():
    """Reddi et al. (2021): m = beta1 m + (1 - beta1) D, v = beta2 v + (1 - beta2) D^2; torch corrects the bias."""
    found, state = after("fedadam", [[2.0, -2.0], [0.0, 1.0]], learning_rate=0.1, beta1=0.5, beta2=0.75, tau=1.0)
    # m = (1, -1) and v = (1, 1), corrected by 1 / 0.5 and 1 / 0.25: a step of 2 / (sqrt(4) + 1)
    assert found[0] == pytest.approx([1 + 0.1 * 2 / 3, 2 - 0.1 * 2 / 3])
    # m = (0.5, 0) and v = (0.75, 1), corrected by 1 / 0.75 and 1 / 0.4375
    assert found[1] == pytest.approx([1 + 0.2 / 3 + 0.1 * (0.5 / 0.75) / (math.sqrt(0.75 / 0.4375) + 1), 2 - 0.2 / 3])
    assert state == {"exp_avg.w": [-0.5, 0.0], "exp_avg_sq.w": [0.75, 1.0], "step.w": 2.0}


def test_fedyogi_by_hand():
    """Reddi et al. (2021): m as FedAdam, v = v - (1 - beta2) D^2 sign(v - D^2) from tau^2; no bias is corrected."""
    found, state = after("fedyogi", [[1.0, -2.0], [2.0, -1.0]], learning_rate=0.1, beta1=0.5, beta2=0.75, tau=1.0)
    # D^2 = (1, 4) against v = (1, 1): the first stays, the second grows by 1; m = (0.5, -1)
    root = math.sqrt(2)
    assert found[0] == pytest.approx([1 + 0.1 * 0.5 / 2, 2 - 0.1 / (root + 1)])
    # D^2 = (4, 1) against v = (1, 2): the first grows by 1, the second shrinks by 0.25; m = (1.25, -1)
    assert found[1] == pytest.approx(
        [1.025 + 0.1 * 1.25 / (root + 1), 2 - 0.1 / (root + 1) - 0.1 / (math.sqrt(1.75) + 1)]
    )
    assert state == {"exp_avg.w": [-1.25, 1.0], "exp_avg_sq.w": [2.0, 1.75], "step.w": 2.0}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_what_no_client_held_keeps_its_value_and_state_bit_for_bit(name, seed):
    generator = np.random.default_rng(seed)
    optimizer, tensors = make(LAYOUT, name), random_tensors(seed, 1)
    for number in range(4):
        kept = torch.tensor(np.sort(generator.choice(37, 12, replace=False)))
        selections = [{"ffn": kept, "residual": 2}, {"ffn": int(generator.integers(1, 30)), "token": 7}][number % 3 :]
        selections = selections or [{"residual": 3, "token": torch.tensor([2, 5])}]
        clients = [(selection, random_tensors([seed, number, i], 0.1)) for i, selection in enumerate(selections)]
        before = [bits(values) for values in (tensors, *optimizer.slots)]
        aggregate(tensors, LAYOUT, optimizer, clients)
        for old, new in zip(before, (tensors, *optimizer.slots), strict=True):
            for tensor, shape in LAYOUT.shapes.items():
                held = {tensor: torch.zeros(shape)}
                for selection in selections:
                    LAYOUT.put_add(held, selection, {tensor: torch.ones(LAYOUT.shape(tensor, selection))})
                changed, is_held = bits(new)[tensor] != old[tensor], held[tensor] > 0
                assert not changed[~is_held].any(), tensor
                assert not is_held.any() or changed[is_held].float().mean() > 0.9, tensor


@pytest.mark.parametrize("name", NAMES)
def test_only_a_round_in_which_a_client_held_some_of_a_tensor_counts_as_its_step(name):
    optimizer = make(PAIR, name)
    for held in ([0.0, 0.0], [0.0, 3.0], [0.0, 0.0]):
        entries = [torch.ones(2), *(slot["w"] for slot in optimizer.slots)]
        optimizer.step("w", entries, [MeanUpdate(slice(0, 2), torch.ones(2).double(), torch.tensor(held).double())])
    assert optimizer.num_steps["w"] == 1


@pytest.mark.parametrize("name", ["none", *NAMES])
def test_clients_that_return_what_they_got_leave_every_bit_of_the_model(name):
    """Negative zeros included."""
    optimizer, tensors = make(LAYOUT, name), random_tensors(0, 1)
    for tensor in tensors.values():
        tensor.view(-1)[::3] = -0.0
    before = bits(tensors)
    nothing = {tensor: torch.zeros(shape) for tensor, shape in LAYOUT.shapes.items()}
    for _ in range(2):
        aggregate(tensors, LAYOUT, optimizer, [(FULL, nothing), ({"ffn": 7}, nothing)])
    assert same(bits(tensors), before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_permuting_model_and_state_before_a_step_or_after_it_comes_to_the_same_bits(name, threads):
    generator = np.random.default_rng(1)
    order = {dimension: torch.tensor(generator.permutation(size)) for dimension, size in LAYOUT.sizes.items()}
    kept = torch.arange(3, 23)
    moved = torch.isin(order["ffn"], kept).nonzero().flatten()  # where those lie after the permutation
    updates = [random_tensors(number, 0.1) for number in range(3)]
    permuted = [LAYOUT.take(update, order) for update in updates]
    torch.set_num_threads(threads)
    try:
        ends = []
        for is_first in (True, False):
            optimizer, tensors = make(LAYOUT, name), random_tensors(7, 1)
            aggregate(tensors, LAYOUT, optimizer, [(FULL, updates[0])])
            if is_first:
                tensors = LAYOUT.take(tensors, order)
                optimizer.reorder(order)
                aggregate(tensors, LAYOUT, optimizer, [({"ffn": moved}, permuted[1]), ({"ffn": moved}, permuted[2])])
            else:
                aggregate(tensors, LAYOUT, optimizer, [({"ffn": kept}, updates[1]), ({"ffn": kept}, updates[2])])
                tensors = LAYOUT.take(tensors, order)
                optimizer.reorder(order)
            ends.append(bits(tensors) | bits(optimizer.state()))
    finally:
        torch.set_num_threads(1)
    assert same(*ends)


def test_the_server_reorders_the_state_with_the_model():
    order = {"ffn": torch.arange(36, -1, -1)}
    optimizer, tensors = make(LAYOUT, "fedadam"), random_tensors(7, 1)
    aggregate(tensors, LAYOUT, optimizer, [(FULL, random_tensors(0, 0.1))])
    expected = [LAYOUT.take(values, order) for values in (tensors, *optimizer.slots)]
    method = SimpleNamespace(order=lambda tensors, update: order)
    experiment = SimpleNamespace(
        method=method, layout=SimpleNamespace(frozen=()), aggregator=SimpleNamespace(sent=LAYOUT)
    )
    model = reorder(experiment, pack(LAYOUT, tensors), optimizer)
    for wanted, values in zip(expected, (model.tensors, *optimizer.slots), strict=True):
        assert same(bits(values), bits(wanted))


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_state_goes_on_with_the_same_bits(name):
    updates = [random_tensors(number, 0.1) for number in range(3)]
    optimizer, tensors = make(LAYOUT, name), random_tensors(7, 1)
    for update in updates[:2]:
        aggregate(tensors, LAYOUT, optimizer, [(FULL, update)])
    restored = make(LAYOUT, name)
    restored.restore({key: tensor.clone() for key, tensor in optimizer.state().items()})
    copies = {key: tensor.clone() for key, tensor in tensors.items()}
    aggregate(tensors, LAYOUT, optimizer, [(FULL, updates[2])])
    aggregate(copies, LAYOUT, restored, [(FULL, updates[2])])
    assert same(bits(tensors), bits(copies))
    assert same(bits(optimizer.state()), bits(restored.state()))


def test_the_state_of_another_optimizer_is_refused():
    state = make(LAYOUT, "fedavgm").state()
    with pytest.raises(UserMistake, match=r"the saved state lacks 'exp_avg\.bias'"):
        make(LAYOUT, "fedyogi").restore(state)
    with pytest.raises(UserMistake, match=r"the saved state has 'momentum_buffer\.bias'"):
        make(LAYOUT, "none").restore(state)
