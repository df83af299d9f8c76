"""Factorised models: the same function, with a rank for every matrix."""

from __future__ import annotations

import copy

import pytest
import torch

from raffm_mpi.elastic.cost import count_parameters
from raffm_mpi.elastic.factors import decompose, factor_pairs, factored_layout, factorise, multiplied_out, principal
from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.submodel import Shell, extract
from raffm_mpi.errors import UserMistake

FAMILIES = ["vit", "bert", "distilbert", "llama", "t5"]


@pytest.fixture(params=FAMILIES)
def pair(request, build):
    """A case, and its model factorised with its layout."""
    case = build(request.param)
    model = factorise(copy.deepcopy(case.model))
    return case, model, factored_layout(model)


def test_a_factorised_model_is_the_same_function_and_so_is_the_one_multiplied_out(pair):
    case, model, _ = pair
    torch.testing.assert_close(case.output(model), case.output(case.model), atol=1e-5, rtol=1e-4)
    plain = multiplied_out(model)
    torch.testing.assert_close(case.output(plain), case.output(case.model), atol=1e-5, rtol=1e-4)
    assert {name for name, _ in plain.named_parameters()} == {name for name, _ in case.model.named_parameters()}


def test_every_matrix_of_the_layers_has_a_rank_and_its_principal_components_come_first(pair):
    case, model, layout = pair
    ranks = layout.of_kind(Kind.RANK)
    pairs = factor_pairs(layout)
    assert [rank for *_, rank in pairs] == ranks
    assert len(ranks) == sum(
        len(case.tensors[name].shape) == 2 and any(part.isdigit() for part in name.split(".")) for name, _ in
        case.layout.matmuls
    )  # fmt: skip
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for (up, _, rank), values in zip(pairs, principal(tensors, layout).values(), strict=True):
        weight = case.tensors[up.replace(".up.weight", ".weight")].double()
        torch.testing.assert_close(values, torch.linalg.svdvals(weight), atol=1e-5, rtol=1e-4)
        assert layout.sizes[rank] == min(weight.shape)


def test_leading_components_are_the_nearest_matrix_of_that_rank():
    torch.manual_seed(0)
    weight = torch.randn(7, 5)
    up, down = decompose(weight)
    torch.testing.assert_close(up @ down, weight.double())
    gap = (weight.double() - up[:, :2] @ down[:2]).norm()
    torch.testing.assert_close(gap, torch.linalg.svdvals(weight.double())[2:].norm())  # Eckart and Young, 1936


def test_a_sub_model_of_some_components_is_the_zero_masked_model(pair):
    case, model, layout = pair
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    selection = {rank: torch.arange(0, layout.sizes[rank], 2) for rank in layout.of_kind(Kind.RANK)}
    sub = extract(model, layout, selection)
    assert count_parameters(layout, selection) == sum(parameter.numel() for parameter in sub.parameters())
    masked = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    layout.put(masked, selection, layout.take(tensors, selection))
    expected = case.output(Shell(model).fill(layout, masked))
    torch.testing.assert_close(case.output(sub), expected, atol=1e-5, rtol=1e-4)


def test_a_family_without_linear_layers_is_refused(build):
    with pytest.raises(UserMistake, match="family 'gpt2' has no linear layers to factorise"):
        factorise(copy.deepcopy(build("gpt2").model))
