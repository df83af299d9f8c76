"""The paper's rule orders the queries and keys of each head, or is refused with the reason: on every family."""

from __future__ import annotations

import pytest
import torch

from raffm_mpi import RaFFM
from raffm_mpi.config import RaFFMSettings
from raffm_mpi.elastic.cost import cost
from raffm_mpi.elastic.families import FAMILIES
from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.submodel import extract
from raffm_mpi.errors import UserMistake
from raffm_mpi.methods import check_method, make_method

REFUSED = {
    "gpt2": "queries and keys share their rows with the values",
    "sam_vision_model": "queries and keys share their rows with the values",
    "llama": "rotary embeddings tie each row of a query and a key to a frequency",
    "mistral": "rotary embeddings",
    "qwen2": "rotary embeddings",
    "qwen3": "rotary embeddings",
}
ORDERED = sorted(FAMILIES.keys() - REFUSED)
PAPER = RaFFMSettings(salience="paper")


@pytest.mark.parametrize("name", ORDERED)
def test_the_order_changes_which_queries_and_keys_a_slice_keeps_and_nothing_else(build, name):
    case = build(name)
    layout, tensors = case.layout, case.tensors
    found = make_method(PAPER, layout, 0, lambda selection: cost(layout, selection, num_tokens=9)).order(tensors)
    keys = layout.of_kind(Kind.KEY)
    assert keys and found.keys() == set(keys)
    torch.testing.assert_close(case.output(extract(case.model, layout, found)), case.output(case.model))
    ordered = layout.take(tensors, found)
    half = {key: layout.sizes[key] // 2 for key in keys}
    before, after = layout.take(tensors, half), layout.take(ordered, half)
    for parameter, label in layout.labels.items():
        has_keys = any(Kind.KEY in layout.kinds_on(axis) for axis in label)
        assert torch.equal(before[parameter], after[parameter]) != has_keys, parameter
    matrices = [n for n, label in layout.labels.items() if len(label) == 2 and Kind.KEY in layout.kinds_on(label[0])]
    assert sum(after[n].abs().mean() for n in matrices) > sum(before[n].abs().mean() for n in matrices)


@pytest.mark.parametrize("name", REFUSED)
def test_where_it_cannot_be_done_it_is_refused_before_a_round_with_setting_family_and_reason(build, name):
    case = build(name)
    family = case.layout.family.name
    sentence = f"'paper' orders the queries and keys of each head, which cannot be done in family '{family}': "
    with pytest.raises(UserMistake, match=f"^method.salience: {sentence}{REFUSED[name]}"):
        check_method(PAPER, case.layout)
    check_method(RaFFMSettings(salience="all"), case.layout)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "clip", "vit"])
def test_the_python_class_orders_or_refuses_as_the_setting_does(build, name):
    case = build(name)
    raffm, before = RaFFM(case.model), case.output(case.model)
    if name in REFUSED:
        with pytest.raises(UserMistake, match=f"^metric: 'paper' .* family '{name}': {REFUSED[name]}"):
            raffm.salient_parameter_prioritization("paper")
        return
    tensors = {parameter: tensor.clone() for parameter, tensor in case.tensors.items()}
    raffm.salient_parameter_prioritization("paper")
    moved = {parameter for parameter, tensor in case.tensors.items() if not torch.equal(tensor, tensors[parameter])}
    assert moved == {
        parameter
        for parameter, label in case.layout.labels.items()
        if any(Kind.KEY in case.layout.kinds_on(axis) for axis in label)
    }
    torch.testing.assert_close(case.output(case.model), before)
