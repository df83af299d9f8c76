"""What each method lets a client hold."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from raffm_mpi.config import FedAvgSettings, RaFFMSettings, SpaceSettings
from raffm_mpi.elastic.cost import cost, count_parameters
from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.labels import FULL
from raffm_mpi.elastic.submodel import extract
from raffm_mpi.errors import UserMistake
from raffm_mpi.methods import make_method
from raffm_mpi.methods.space import resolve
from support import tiny

COHORT = [7, 3, 11, 2, 9]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = ViTConfig(**{**tiny.VIT, **sizes}, num_labels=3)
    return ViTForImageClassification(config).eval()


@pytest.fixture(scope="module")
def layout(model):
    return layout_of(model)


def raffm(layout, seed=0, **settings):
    return make_method(RaFFMSettings(**settings), layout, seed, partial(cost, layout))


def same(first, second):
    return [dict(a) for a in first] == [dict(b) for b in second]


def test_fedavg_gives_everyone_the_full_model_in_its_own_order(layout, model):
    method = make_method(FedAvgSettings(), layout, 0, partial(cost, layout))
    assert method.selections(0, COHORT) == [FULL] * 5
    assert method.order(dict(model.named_parameters())) == FULL
    assert method.ladder() == [FULL]


def test_the_sandwich_is_one_full_one_smallest_and_others_drawn(layout):
    method = raffm(layout)
    first, second, *others = method.selections(0, COHORT)
    assert first == FULL
    sizes = [count_parameters(layout, selection) for selection in others]
    assert all(count_parameters(layout, second) <= size <= count_parameters(layout) for size in sizes)
    assert len(set(sizes)) > 1
    for selection in [second, *others]:
        layout.check(selection)


def test_a_cohort_of_one_or_two_gets_the_ends_of_the_sandwich(layout):
    method = raffm(layout)
    assert method.selections(0, [5]) == [FULL]
    assert [count_parameters(layout, s) for s in method.selections(0, [5, 6])] == [
        count_parameters(layout),
        count_parameters(layout, method.space.smallest()),
    ]


def test_widths_are_keyed_by_seed_round_and_client_and_by_nothing_else(layout):
    widths = raffm(layout).selections(3, COHORT)
    assert same(widths, raffm(layout).selections(3, COHORT))
    assert not same(widths, raffm(layout, seed=1).selections(3, COHORT))
    assert not same(widths, raffm(layout).selections(4, COHORT))
    swapped = raffm(layout).selections(3, [3, 7, 2, 11, 9])  # a client's draw does not depend on its place
    assert same([widths[2], widths[3], widths[4]], [swapped[3], swapped[2], swapped[4]])


def test_layers_are_drawn_on_their_own_and_the_residual_once(layout):
    space = SpaceSettings(ffn=[0.25, 0.5, 1.0], heads=[1, 2, 4], head_width=[2, 6], residual=[12, 24])
    selections = raffm(layout, space=space).selections(0, list(range(40)))[2:]
    ffn = [tuple(layout.size(f"ffn[{layer}]", s) for layer in range(3)) for s in selections]
    assert {size for sizes in ffn for size in sizes} == {12, 24, 48}
    assert any(len(set(sizes)) == 3 for sizes in ffn)
    assert {layout.size("residual", s) for s in selections} == {12, 24}
    for selection in selections:  # one head width for Q, K and V
        for layer in range(3):
            assert layout.size(f"key[{layer}]", selection) == layout.size(f"value[{layer}]", selection)


@pytest.mark.parametrize("budget_of", ["parameters", "flops"])
@pytest.mark.parametrize("budget", [0.45, 0.6, 0.83, 1.0])
def test_a_budget_is_kept_and_nearly_used(layout, budget, budget_of):
    method = raffm(layout, budget={"kind": "drawn", "shares": [budget], "of": budget_of})

    def price(selection):
        found = cost(layout, selection)
        return found.parameters if budget_of == "parameters" else found.forward_flops

    (selection,) = method.selections(0, [0])
    assert price(selection) <= budget * price(FULL)
    larger = [s for s in method.space.path if price(s) > price(selection)]
    assert not larger or price(larger[0]) > budget * price(FULL)


def test_clients_keep_their_budget_over_the_rounds(layout):
    method = raffm(layout, budget={"kind": "drawn", "shares": [0.5, 0.75, 1.0]})
    first = method.selections(0, list(range(30)))
    assert same(first, method.selections(9, list(range(30))))
    assert len({count_parameters(layout, selection) for selection in first}) == 3


def test_the_path_of_a_space_is_nested_and_grows_one_choice_at_a_time(layout):
    path = resolve(SpaceSettings(), layout).path
    sizes = np.array([[layout.size(dimension, selection) for dimension in layout.sizes] for selection in path])
    assert (np.diff(sizes, axis=0) >= 0).all()
    assert ((np.diff(sizes, axis=0) > 0).sum(axis=1) == 1).all()
    assert path[-1] == FULL


def test_heads_left_out_are_every_number_from_a_quarter_up(layout):
    choices = {choice.dimensions[0]: choice.sizes for choice in resolve(SpaceSettings(), layout).choices}
    assert choices["head[0]"] == (1, 2, 3, 4)
    assert "residual" not in choices


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ({"ffn": [96]}, "method.space.ffn: 96 is wider than the model, whose ffn[0] has size 48"),
        ({"heads": [0.3]}, "method.space.heads: 0.3 of head[0] (size 4) is 1.2, not a whole number"),
        ({"head_width": [7]}, "method.space.head_width: 7 is wider than the model, whose key[0] has size 6"),
    ],
)
def test_a_space_that_contradicts_the_model_is_refused(layout, space, sentence):
    with pytest.raises(UserMistake, match=r".") as error:
        resolve(SpaceSettings(**space), layout)
    assert sentence in str(error.value)


@pytest.mark.parametrize(("rule", "ordered"), [("all", None), ("paper", "key"), ("none", "")])
def test_salience_orders_what_its_rule_says_and_keeps_the_function(model, layout, rule, ordered):
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = raffm(layout, salience=rule).order(tensors)
    expected = {d for d in layout.sizes if ordered is None or d.split("[")[0] == ordered}
    assert set(found) == expected
    image = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        gap = extract(model, layout, found)(image).logits - model(image).logits
    assert gap.abs().max() <= 1e-5


def test_the_ladder_goes_down_from_the_full_model_to_the_smallest(layout):
    sizes = [count_parameters(layout, selection) for selection in raffm(layout).ladder()]
    assert sizes[0] == count_parameters(layout)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
