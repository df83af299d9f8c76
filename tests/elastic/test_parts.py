"""The dimensions without an axis: depth and density."""

from __future__ import annotations

import copy

import pytest
import torch

from raffm_mpi.aggregation.exact import ExactSum, apply_update
from raffm_mpi.elastic.cost import cost, count_parameters
from raffm_mpi.elastic.labels import DENSITY, DEPTH, FULL, coverage, is_kept, num_kept, union, within
from raffm_mpi.elastic.submodel import Shell, extract

NUM_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")


@pytest.fixture
def shallow(case):
    """A model of one layer with the full model's parameters, as transformers builds it."""
    if DEPTH not in case.layout.parts:
        pytest.skip("a model with several stacks of layers has no depth")
    config = copy.deepcopy(case.model.config)
    own = getattr(config, "vision_config", config)
    name = next((name for name in NUM_LAYERS if hasattr(own, name)), None)
    assert name is not None
    setattr(own, name, 1)
    model = type(case.model)(config).eval()
    own_tensors = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in case.tensors.items():
            if name in own_tensors:
                own_tensors[name].copy_(tensor)
    return model


def test_a_depth_prefix_is_the_model_that_transformers_builds_with_fewer_layers(case, shallow):
    sub = extract(case.model, case.layout, {DEPTH: 1})
    assert {name for name, _ in sub.named_parameters()} == {name for name, _ in shallow.named_parameters()}
    torch.testing.assert_close(case.output(sub), case.output(shallow))
    assert count_parameters(case.layout, {DEPTH: 1}) == sum(parameter.numel() for parameter in shallow.parameters())


def test_a_shell_that_was_shallow_is_whole_again(case):
    if DEPTH not in case.layout.parts:
        pytest.skip("a model with several stacks of layers has no depth")
    shell = Shell(case.model)
    shell.fill(case.layout.restrict({DEPTH: 1}), case.layout.take(case.tensors, {DEPTH: 1}))
    assert torch.equal(case.output(shell.fill(case.layout, case.tensors)), case.output(case.model))


def test_fewer_layers_cost_less_and_less_density_sends_less_and_computes_as_much(build):
    layout, lengths = build("bert").layout, {"num_tokens": 9.0}
    full, shallow, sparse = (cost(layout, s, **lengths) for s in (FULL, {DEPTH: 1}, {DENSITY: 250}))
    assert shallow.parameters < full.parameters
    assert shallow.training_flops < full.training_flops
    assert sparse.training_flops == full.training_flops
    matrices = [shape for shape in layout.shapes.values() if len(shape) > 1]
    assert full.parameters - sparse.parameters == sum(
        torch.Size(shape).numel() - num_kept(torch.Size(shape).numel(), 250) for shape in matrices
    )
    assert sparse.mask_bytes == -(-sum(torch.Size(shape).numel() for shape in matrices) // 8)
    assert full.mask_bytes == 0


@pytest.mark.parametrize("density", [1, 250, 990])
def test_the_largest_entries_are_kept_and_vectors_whole(density):
    torch.manual_seed(0)
    tensor = torch.randn(30, 7)
    kept = is_kept(tensor, density)
    assert int(kept.sum()) == num_kept(210, density) == -(-210 * density // 1000)
    assert tensor[kept].abs().min() > tensor[~kept].abs().max()
    assert is_kept(tensor[0], density).all()


def test_taking_twice_keeps_the_same_entries(build):
    case = build("vit")
    once = case.layout.take(case.tensors, {DENSITY: 300})
    assert all(torch.equal(tensor, case.layout.take(once, {DENSITY: 300})[name]) for name, tensor in once.items())


def test_coverage_counts_the_entries_that_less_dense_clients_keep(build):
    case = build("vit")
    selections = [FULL, {DENSITY: 500}, {DENSITY: 500, "ffn[0]": 20}, {DEPTH: 1, DENSITY: 200}, {"ffn[1]": 9}]
    weights = [3, 5, 7, 11, 13]
    for name, tensor in case.tensors.items():
        expected = torch.zeros(tensor.shape, dtype=torch.float64)
        for selection, weight in zip(selections, weights, strict=True):
            axes = {dimension: index for dimension, index in selection.items() if dimension != DENSITY}
            for own in case.layout.take({name: tensor}, axes).values():
                held = is_kept(own, selection.get(DENSITY, 1000)).double() * weight
                case.layout.put_add({name: expected}, axes, {name: held})
        found = coverage(case.layout, name, selections, weights, tensor).expand(tensor.shape)
        assert torch.equal(found, expected), name


def test_what_sparse_and_shallow_clients_send_is_averaged_over_those_who_hold_it(build):
    case = build("bert")
    selections, weights = [{DEPTH: 1}, {DENSITY: 500}], [2, 6]
    envelope = union(case.layout, selections)
    assert envelope == FULL
    total = ExactSum.zeros(case.layout.restrict(envelope), sum(weights))
    for selection, weight, step in zip(selections, weights, (1.0, 0.5), strict=True):
        received = case.layout.take(case.tensors, within(envelope, selection))
        kept = {name: is_kept(tensor, selection.get(DENSITY, 1000)) for name, tensor in received.items()}
        total.add(selection, {name: step * mask.float() for name, mask in kept.items()}, weight)
    after = {name: tensor.clone() for name, tensor in case.tensors.items()}
    apply_update(after, case.layout, total, envelope, selections, weights)
    name = next(name for name in case.tensors if ".layer.1." in name and case.tensors[name].ndim == 2)
    kept = is_kept(case.tensors[name], 500)
    torch.testing.assert_close(after[name] - case.tensors[name], 0.5 * kept.float())
    assert torch.equal(after[name][~kept], case.tensors[name][~kept])
    name = next(name for name in case.tensors if ".layer.0." in name and case.tensors[name].ndim == 2)
    kept = is_kept(case.tensors[name], 500).double()
    torch.testing.assert_close((after[name] - case.tensors[name]).double(), (2 + 3 * kept) / (2 + 6 * kept))
