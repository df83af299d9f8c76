"""Exact aggregation: right against float64, the same bits in any order, and faithful to what nobody holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raffm_mpi.aggregation.exact import LARGEST_UPDATE, ExactSum, apply_official, apply_update, flaw, fraction_bits
from raffm_mpi.elastic.labels import FULL, Layout, parse, union, within

LAYOUT = Layout(
    {
        "fc1": parse("ffn residual"),
        "fc2": parse("residual ffn"),
        "q": parse("(head key) residual"),
        "bias": parse("ffn"),
        "temperature": (),
    },
    {"fc1": (12, 8), "fc2": (8, 12), "q": (12, 8), "bias": (12,), "temperature": ()},
    {"ffn": 12, "residual": 8, "head": 3, "key": 4},
)


def random_clients(seed, count, scale=1e-3):
    """(selection, examples, update) of each client, with random widths."""
    generator = np.random.default_rng(seed)
    clients = []
    for _ in range(count):
        selection = {
            dimension: int(generator.integers(1, size + 1))
            for dimension, size in LAYOUT.sizes.items()
            if generator.random() < 0.7
        }
        update = {
            name: torch.tensor(generator.normal(0, scale, LAYOUT.shape(name, selection)), dtype=torch.float32)
            for name in LAYOUT.labels
        }
        clients.append((selection, int(generator.integers(1, 1000)), update))
    return clients


def model(seed=0):
    generator = np.random.default_rng(seed)
    return {n: torch.tensor(generator.normal(0, 1, s), dtype=torch.float32) for n, s in LAYOUT.shapes.items()}


def exact_sum(clients, order=None, faithful=False):
    envelope = union(LAYOUT, [selection for selection, _, _ in clients])
    total_weight = len(clients) if faithful else sum(weight for _, weight, _ in clients)
    total = ExactSum.zeros(LAYOUT.restrict(envelope), total_weight)
    for number in order if order is not None else range(len(clients)):
        selection, weight, update = clients[number]
        total.add(within(envelope, selection), update, 1 if faithful else weight)
    return envelope, total


def aggregate(tensors, clients, order=None):
    envelope, total = exact_sum(clients, order)
    apply_update(tensors, LAYOUT, total, envelope, [s for s, _, _ in clients], [w for _, w, _ in clients])
    return tensors


def reference(tensors, clients):
    """The formula in float64, entry by entry."""
    sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in LAYOUT.shapes.items()}
    held = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in LAYOUT.shapes.items()}
    for selection, weight, update in clients:
        LAYOUT.put_add(sums, selection, {name: weight * tensor.double() for name, tensor in update.items()})
        LAYOUT.put_add(held, selection, {n: torch.full(t.shape, float(weight)).double() for n, t in update.items()})
    mean = {name: torch.where(held[name] > 0, sums[name] / held[name], 0.0) for name in sums}
    return mean, held


@pytest.mark.parametrize("scale", [1e-9, 1e-5, 1e-2, 10.0])
@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_the_exact_mean_is_float64s_to_a_millionth(count, scale):
    clients = random_clients(count, count, scale)
    mean, _ = reference(model(), clients)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in model().items()}
    found = aggregate(zeros, clients)  # onto zeros, so that only the update is compared
    for name in LAYOUT.labels:
        error = (found[name].double() - mean[name]).abs().max() / mean[name].abs().max()
        assert error <= 1e-6, name


@given(st.integers(0, 1000), st.integers(1, 8), st.randoms(use_true_random=False))
def test_the_sum_has_the_same_bits_in_any_order(seed, count, random):
    clients = random_clients(seed, count)
    order = list(range(count))
    random.shuffle(order)
    _, first = exact_sum(clients)
    _, second = exact_sum(clients, order)
    assert torch.equal(first.packed.buffer, second.packed.buffer)


@given(st.integers(0, 1000), st.integers(1, 5))
def test_entries_held_by_nobody_keep_their_bits(seed, count):
    clients = random_clients(seed, count)
    before = model(seed)
    _, held = reference(before, clients)
    after = aggregate({name: tensor.clone() for name, tensor in before.items()}, clients)
    for name in LAYOUT.labels:
        untouched = held[name] == 0
        assert torch.equal(after[name][untouched].view(torch.int32), before[name][untouched].view(torch.int32))
        assert not torch.equal(after[name][~untouched], before[name][~untouched])


@given(st.integers(0, 1000), st.integers(1, 5))
def test_aggregating_untouched_sub_models_returns_the_model_exactly(seed, count):
    """Negative zeros included: adding a mean of +0 would turn them."""
    clients = [(s, w, {n: torch.zeros_like(t) for n, t in u.items()}) for s, w, u in random_clients(seed, count)]
    before = model(seed)
    before["fc1"][0, 0] = -0.0
    after = aggregate({name: tensor.clone() for name, tensor in before.items()}, clients)
    assert all(torch.equal(after[name].view(torch.int32), before[name].view(torch.int32)) for name in before)


@pytest.mark.parametrize("entries", [1, 8, 50])
def test_working_in_blocks_changes_no_bit(monkeypatch, entries):
    clients = random_clients(7, 5)
    whole = aggregate(model(), clients)
    monkeypatch.setattr("raffm_mpi.aggregation.exact._BLOCK_ENTRIES", entries)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in aggregate(model(), clients).items())


def test_a_client_alone_gets_its_own_weights_back():
    (client,) = random_clients(3, 1)
    client = (FULL, client[1], {n: torch.full(s, 0.5) for n, s in LAYOUT.shapes.items()})
    before = {name: torch.ones(shape) for name, shape in LAYOUT.shapes.items()}
    assert all((tensor == 1.5).all() for tensor in aggregate(before, [client]).values())


def test_the_official_arithmetic_shrinks_what_few_hold():
    """m holders of K clients: the official code leaves m/K of the value, ours all of it."""
    zero = lambda selection: {n: torch.zeros(LAYOUT.shape(n, selection)) for n in LAYOUT.labels}  # noqa: E731
    selections = [FULL, {"ffn": 6}, {"ffn": 6}, {"ffn": 6}]
    clients = [(selection, 10, zero(selection)) for selection in selections]
    envelope, total = exact_sum(clients, faithful=True)
    tensors = {name: torch.ones(shape) for name, shape in LAYOUT.shapes.items()}
    apply_official(tensors, LAYOUT, total, envelope, selections)
    assert (tensors["fc1"][:6] == 1).all()
    assert (tensors["fc1"][6:] == 0.25).all()
    assert all(
        (tensor == 1).all()
        for tensor in aggregate({n: torch.ones(s) for n, s in LAYOUT.shapes.items()}, clients).values()
    )


def test_the_official_arithmetic_is_the_mean_of_padded_weights():
    clients = [(s, w, u) for s, w, u in random_clients(5, 4)]
    before = model()
    padded = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in LAYOUT.shapes.items()}
    for selection, _, update in clients:
        trained = {n: t.double() + update[n].double() for n, t in LAYOUT.take(before, selection).items()}
        LAYOUT.put_add(padded, selection, trained)
    envelope, total = exact_sum(clients, faithful=True)
    apply_official(before, LAYOUT, total, envelope, [s for s, _, _ in clients])
    for name, tensor in before.items():
        torch.testing.assert_close(tensor.double(), padded[name] / len(clients), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "'fc2' is not finite"),
        (float("inf"), "'fc2' is not finite"),
        (-float("inf"), "'fc2' is not finite"),
        (65.0, "'fc2' reaches 65; allowed is at most 64"),
        (-1e9, "'fc2' reaches 1e[+]09; allowed is at most 64"),
    ],
)
def test_a_flawed_update_is_refused_with_the_tensors_name(value, reason):
    update = {name: torch.zeros(shape) for name, shape in LAYOUT.shapes.items()}
    assert flaw(update) is None
    update["fc2"][3, 3] = value
    found = flaw(update)
    assert found is not None
    import re

    assert re.search(reason, found)


@pytest.mark.parametrize("total_weight", [1, 2, 3, 1000, 2**20, 2**31])
def test_no_sum_of_legal_updates_overflows(total_weight):
    """All of the weight on the largest allowed update, in as many clients as the test can afford."""
    layout = Layout({"w": parse(".")}, {"w": (1,)}, {})
    total = ExactSum.zeros(layout, total_weight)
    parts = min(total_weight, 7)
    weights = [total_weight // parts] * (parts - 1)
    weights.append(total_weight - sum(weights))
    for weight in weights:
        total.add({}, {"w": torch.tensor([LARGEST_UPDATE])}, weight)
    assert int(total.packed.buffer[0]) == total_weight * int(LARGEST_UPDATE) << fraction_bits(total_weight)
