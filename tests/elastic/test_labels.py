"""The axis language: take, put, put_add, envelopes and coverage on random labels and selections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raffm_mpi.elastic.labels import Layout, coverage, parse, union, within
from raffm_mpi.errors import UserMistake

LABELS = {
    "fused": parse("(head key) residual"),
    "output": parse("residual (head value)"),
    "bias": parse("(head key)"),
    "norm": parse("residual"),
    "patch": parse("residual . ."),
    "triple": parse("(head key value) residual"),
}
SIZES = {"head": 3, "key": 4, "value": 2, "residual": 5}
SHAPES = {
    "fused": (12, 5),
    "output": (5, 6),
    "bias": (12,),
    "norm": (5,),
    "patch": (5, 2, 3),
    "triple": (24, 5),
}
LAYOUT = Layout(LABELS, SHAPES, SIZES)


def tensors(dtype=torch.float32):
    return {
        name: torch.arange(1, 1 + int(np.prod(shape)), dtype=dtype).reshape(shape) for name, shape in SHAPES.items()
    }


def indices(dimension):
    """A prefix, or any subset in any order."""
    size = SIZES[dimension]
    subset = st.permutations(range(size)).flatmap(
        lambda order: st.integers(1, size).map(lambda count: torch.tensor(order[:count]))
    )
    return st.one_of(st.integers(1, size), subset)


selections = st.fixed_dictionaries({}, optional={dimension: indices(dimension) for dimension in SIZES})
prefixes = st.fixed_dictionaries({}, optional={d: st.integers(1, size) for d, size in SIZES.items()})


def expected_take(name, tensor, selection):
    """The same by numpy, one dimension at a time."""
    array = tensor.numpy()
    unflattened = [[SIZES[f] for f in axis] or [n] for axis, n in zip(LABELS[name], SHAPES[name], strict=True)]
    array = array.reshape([size for sizes in unflattened for size in sizes])
    factors = [factor for axis in LABELS[name] for factor in (axis or [None])]
    for position, factor in enumerate(factors):
        if factor in selection:
            index = selection[factor]
            array = np.take(array, np.arange(index) if isinstance(index, int) else index.numpy(), axis=position)
    shape, start = [], 0
    for axis in LABELS[name]:
        width = max(len(axis), 1)
        shape.append(int(np.prod(array.shape[start : start + width])))
        start += width
    return torch.from_numpy(array.reshape(shape))


@given(selections)
def test_take_is_indexing_each_dimension_by_itself(selection):
    full = tensors()
    for name, taken in LAYOUT.take(full, selection).items():
        assert torch.equal(taken, expected_take(name, full[name], selection))
        assert tuple(taken.shape) == LAYOUT.shape(name, selection)


@given(selections)
def test_put_add_is_the_transpose_of_take(selection):
    """<take(x), y> = <x, put_add(0, y)> for all x and y, in integers."""
    full = tensors(torch.int64)
    taken = LAYOUT.take(full, selection)
    other = {name: torch.randint(-9, 9, tensor.shape) for name, tensor in taken.items()}
    target = {name: torch.zeros_like(tensor) for name, tensor in full.items()}
    LAYOUT.put_add(target, selection, other)
    for name in full:
        assert (taken[name] * other[name]).sum() == (full[name] * target[name]).sum()


@given(selections)
def test_put_writes_what_take_reads_and_nothing_else(selection):
    target = {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}
    source = LAYOUT.take(tensors(), selection)
    LAYOUT.put(target, selection, source)
    for name, tensor in LAYOUT.take(target, selection).items():
        assert torch.equal(tensor, source[name])
        assert int((target[name] != 0).sum()) == tensor.numel()


@given(prefixes)
def test_prefixes_of_whole_axes_are_views(selection):
    full = tensors()
    taken = LAYOUT.take(full, selection)
    assert taken["norm"].untyped_storage().data_ptr() == full["norm"].untyped_storage().data_ptr()
    if "key" not in selection:
        assert taken["fused"].untyped_storage().data_ptr() == full["fused"].untyped_storage().data_ptr()


@given(st.permutations(range(3)), st.lists(st.permutations(range(4)), min_size=3, max_size=3))
def test_a_two_dimensional_index_orders_the_keys_of_each_head(heads, keys):
    full = tensors()
    selection = {"key": torch.tensor(keys)[:, :3], "head": torch.tensor(heads)}
    by_head = full["bias"].reshape(3, 4)
    expected = torch.stack([by_head[head, keys[head][:3]] for head in heads])
    assert torch.equal(LAYOUT.take(full, selection)["bias"], expected.flatten())


@given(st.lists(selections, min_size=1, max_size=4))
def test_the_envelope_holds_every_selection_and_no_more(chosen):
    envelope = union(LAYOUT, chosen)
    for dimension, size in SIZES.items():
        kept = [s.get(dimension, size) for s in chosen]
        wanted = set().union(*(set(range(k) if isinstance(k, int) else k.tolist()) for k in kept))
        index = envelope.get(dimension, size)
        assert set(range(index) if isinstance(index, int) else index.tolist()) == wanted


@given(st.lists(selections, min_size=1, max_size=4))
def test_taking_within_the_envelope_is_taking_from_the_model(chosen):
    full = tensors()
    envelope = union(LAYOUT, chosen)
    outer = LAYOUT.take(full, envelope)
    inner_layout = LAYOUT.restrict(envelope)
    for selection in chosen:
        inner = inner_layout.take(outer, within(envelope, selection))
        for name, tensor in LAYOUT.take(full, selection).items():
            assert torch.equal(inner[name], tensor)


@given(st.lists(st.tuples(selections, st.integers(1, 100)), min_size=1, max_size=4))
def test_coverage_is_the_weight_of_those_who_hold_an_entry(clients):
    chosen, weights = [s for s, _ in clients], [w for _, w in clients]
    for name, shape in SHAPES.items():
        expected = {name: torch.zeros(shape, dtype=torch.int64)}
        for selection, weight in clients:
            ones = torch.full(LAYOUT.shape(name, selection), weight)
            LAYOUT.put_add(expected, selection, {name: ones})
        found = coverage(LAYOUT, name, chosen, weights, torch.zeros(shape)).expand(shape)
        assert torch.equal(found.long(), expected[name])


@pytest.mark.parametrize(
    ("selection", "message"),
    [({"hed": 2}, "unknown dimension 'hed'"), ({"head": 4}, "outside its size 3"), ({"head": 0}, "outside its size 3")],
)
def test_a_selection_outside_the_model_is_refused(selection, message):
    with pytest.raises(UserMistake, match=message):
        LAYOUT.check(selection)


def test_a_malformed_label_is_refused():
    with pytest.raises(UserMistake, match="unbalanced"):
        parse("(head key residual")
