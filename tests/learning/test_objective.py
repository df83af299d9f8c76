"""What a step minimises, against gradients by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.labels import DENSITY, FULL, is_kept
from raffm_mpi.elastic.submodel import Shell, extract
from raffm_mpi.learning.objective import Nested, NestedObjective, Objective, divergence
from support import tiny


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**tiny.VIT, num_labels=3)).eval()


@pytest.fixture
def batch():
    return {"pixel_values": torch.randn(4, 1, 8, 8), "labels": torch.tensor([0, 1, 2, 1])}


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def of_loss(model, batch):
    model.zero_grad()
    model(**batch).loss.backward()
    return gradients(model)


def test_the_proximal_term_adds_mu_times_the_distance(model, batch):
    received = {name: parameter.detach() - 0.5 for name, parameter in model.named_parameters()}
    plain = of_loss(model, batch)
    objective = Objective(received, proximal=0.1)
    model.zero_grad()
    objective.backward(model, batch, 1)
    objective.finish_step(model)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, plain[name] + 0.1 * 0.5)


def test_entries_that_a_client_does_not_hold_have_no_gradient(model, batch):
    layout = layout_of(model)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    sparse = extract(model, layout, {DENSITY: 200})
    kept = {name: is_kept(tensor, 200) for name, tensor in tensors.items()}
    objective = Objective(layout.take(tensors, {DENSITY: 200}), kept)
    objective.backward(sparse, batch, 1)
    objective.finish_step(sparse)
    for name, gradient in gradients(sparse).items():
        assert not gradient[~kept[name]].any()
        assert gradient[kept[name]].any()


def nested_gradients(model, batch, nested):
    layout = layout_of(model)
    model.zero_grad()
    objective = NestedObjective(nested, Shell(model), layout, FULL, np.random.default_rng(0))
    objective.start_step()
    loss = objective.backward(model, batch, 1)
    return gradients(model), loss


def test_a_nested_sub_models_gradient_is_the_zero_masked_models_on_what_it_holds(model, batch):
    layout, narrow = layout_of(model), {"ffn[0]": 9, "head[1]": 2}
    found, _ = nested_gradients(model, batch, Nested(always=(narrow,), own=False))
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    masked = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    layout.put(masked, narrow, layout.take(tensors, narrow))
    expected = of_loss(Shell(model).fill(layout, masked).eval(), batch)
    for name, gradient in found.items():
        held = layout.take({name: gradient}, narrow)[name]
        torch.testing.assert_close(held, layout.take({name: expected[name]}, narrow)[name], atol=1e-6, rtol=1e-4)
        outside = torch.ones_like(gradient)
        layout.put({name: outside}, narrow, {name: torch.zeros_like(held)})
        assert not (gradient * outside).any()


def test_the_whole_and_its_sub_models_add_their_gradients(model, batch):
    narrow = {"ffn[0]": 9}
    own = of_loss(model, batch)
    part, _ = nested_gradients(model, batch, Nested(always=(narrow,), own=False))
    both, loss = nested_gradients(model, batch, Nested(always=(narrow,)))
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, own[name] + part[name], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(loss, model(**batch).loss.detach())


def test_every_drawn_sub_model_has_its_turn(model, batch):
    widths = ({"ffn[0]": 3}, {"ffn[0]": 20}, FULL)
    objective = NestedObjective(
        Nested(drawn=widths, own=False), Shell(model), layout_of(model), FULL, np.random.default_rng(0)
    )
    seen = []
    for _ in range(30):
        objective.start_step()
        seen += [dict(selection) for selection in objective._step]
    assert len(seen) == 30
    assert all(dict(width) in seen for width in widths)


def test_a_sub_model_that_says_what_the_whole_says_is_taught_nothing(model, batch):
    with_own, _ = nested_gradients(model, batch, Nested(always=(FULL,), distillation=1.0, temperature=2.0))
    own = of_loss(model, batch)
    for name, gradient in with_own.items():
        torch.testing.assert_close(gradient, own[name], atol=1e-6, rtol=1e-4)


def test_the_divergence_is_hintons_by_hand():
    logits, taught = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(9.0), 0.0]])
    # T = 1: KL((0.9, 0.1) | (0.5, 0.5)); T = 2: softmax of log(9) / 2 = (0.75, 0.25), times T^2.
    by_hand = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert divergence(logits, taught, 1.0).item() == pytest.approx(by_hand, rel=1e-6)
    by_hand = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert divergence(logits, taught, 2.0).item() == pytest.approx(by_hand, rel=1e-6)
