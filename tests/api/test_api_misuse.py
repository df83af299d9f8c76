"""Misuse of the Python API is told in one sentence: what was given, where, and what is allowed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from raffm_mpi import RaFFM, RaPEFT, load_submodel
from raffm_mpi.errors import UserMistake
from support import tiny

SPACE = {"atten_out_space": [8, 16, 24], "inter_hidden_space": [10, 20, 40], "residual_hidden_space": [24]}


def vit(**sizes):
    return ViTForImageClassification(ViTConfig(num_labels=5, **tiny.VIT | sizes))


def uncut(raffm):
    submodel, _, _ = raffm.sample_smallest_model()
    raffm.salient_parameter_prioritization()
    return submodel


def diverged(raffm):
    submodel, _, _ = raffm.sample_smallest_model()
    submodel.classifier.bias.data.fill_(float("nan"))
    return submodel


MISUSES = {
    "a model that is none": (lambda r, d: RaFFM(nn.Linear(2, 2)), "Linear, which has no config"),
    "a sub-model": (lambda r, d: RaFFM(r.sample_smallest_model()[0]), "is a sub-model"),
    "adapters without any": (lambda r, d: RaPEFT(vit()), "pip install peft"),
    "an unknown space": (
        lambda r, d: RaFFM(vit(), {"head_space": [1]}),
        "unknown key 'head_space'; known: atten_out_sp",
    ),
    "half a head": (
        lambda r, d: RaFFM(vit(), {"atten_out_space": [12]}),
        r"12 .*multiples of 8 \(a whole head\) up to 24",
    ),
    "a width beyond the model": (lambda r, d: RaFFM(vit(), {"inter_hidden_space": [41]}), "41 .*from 1 to 40"),
    "a fraction": (lambda r, d: RaFFM(vit(), {"inter_hidden_space": [0.5]}), "0.5 is not a whole number"),
    "a bare width": (lambda r, d: RaFFM(vit(), {"inter_hidden_space": 20}), "20 is not a list"),
    "a list for a space": (lambda r, d: RaFFM(vit(), [24]), "got list"),
    "a missing file": (lambda r, d: RaFFM(vit(), d / "none.json"), "none.json' cannot be read"),
    "a pickle": (lambda r, d: RaFFM(vit(), d / "elastic.pt"), "elastic.pt' is not JSON"),
    "an unknown layer": (lambda r, d: r.resource_aware_model({"layer_3": {}}), "'layer_3'; known: layer_1, layer_2"),
    "an unknown width": (
        lambda r, d: r.resource_aware_model({"layer_1": {"heads": 2}}),
        "layer_1: unknown key 'heads'",
    ),
    "two residuals": (
        lambda r, d: r.resource_aware_model({"layer_1": {"residual_hidden": 16}, "layer_2": {"out_hidden": 24}}),
        "residual_hidden of layer_1, layer_2 must be the same .* 16 and 24",
    ),
    "an unknown metric": (
        lambda r, d: r.salient_parameter_prioritization("l3"),
        "'l3' is unknown; known: 'l1', 'paper'",
    ),
    "a metric of rows": (lambda r, d: r.salient_parameter_prioritization(lambda t: t.sum()), "must be as large"),
    "nothing to aggregate": (lambda r, d: r.aggregate([]), "local_models is empty"),
    "a weight too few": (lambda r, d: r.aggregate([r.model, r.model], weights=[1]), "1 for 2 local models"),
    "half an example": (lambda r, d: r.aggregate([r.model], weights=[0.5]), r"\[0.5\] must be whole numbers"),
    "another model": (lambda r, d: r.aggregate([vit(intermediate_size=32)]), "local model 0: .* expected"),
    "a deeper model": (lambda r, d: r.aggregate([r.model, vit(num_hidden_layers=1)]), "local model 1: .* None"),
    "rows of another order": (lambda r, d: r.aggregate([uncut(r)]), "another order"),
    "an update that is no number": (lambda r, d: r.aggregate([diverged(r)]), "'classifier.bias' is not finite"),
    "an empty folder": (lambda r, d: r.load_ckpt(d / "nowhere"), "nowhere' is no checkpoint"),
    "a checkpoint without a space": (lambda r, d: r.load_ckpt(d / "hub"), "no elastic_config"),
    "a full model as sub-model": (lambda r, d: load_submodel(d / "hub"), "holds no sub-model"),
    "a folder of nothing": (lambda r, d: load_submodel(d / "nowhere"), "holds no model"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_gives_one_sentence(misuse, tmp_path):
    vit().save_pretrained(tmp_path / "hub")
    torch.save(SPACE, tmp_path / "elastic.pt")
    act, sentence = MISUSES[misuse]
    with pytest.raises(UserMistake, match=sentence) as caught:
        act(RaFFM(vit(), SPACE), tmp_path)
    assert "\n" not in str(caught.value)
