"""The official project's Python API on our models: every method, round trips, and one sentence for each misuse."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
import transformers
from torch import nn

from raffm_mpi import RaFFM, RaPEFT, load_submodel
from support import tiny

SPACE = {"atten_out_space": [8, 16, 24], "inter_hidden_space": [10, 20, 40], "residual_hidden_space": [24]}
NARROW = {"layer_1": {"atten_out": 16, "residual_hidden": 16}, "layer_2": {"atten_out": 16}}
UNEVEN = {"layer_1": {"atten_out": 16, "inter_hidden": 20}, "layer_2": {"atten_out": 24, "inter_hidden": 10}}


def vit(**sizes):
    config = transformers.ViTConfig(num_labels=5, **tiny.VIT | sizes)
    return randomised(transformers.ViTForImageClassification(config))


def bert():
    return randomised(transformers.BertForSequenceClassification(transformers.BertConfig(**tiny.BERT)))


def llama():
    return randomised(transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny.LLAMA)))


def t5():
    config = transformers.T5Config(**tiny.T5)
    return randomised(transformers.T5ForConditionalGeneration(config))


def randomised(model):
    torch.manual_seed(0)
    for parameter in model.parameters():  # no zero biases and unit norms, which would hide mistakes
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def adapted(**options):
    peft = pytest.importorskip("peft", reason="RaPEFT needs peft (pip install peft)")
    config = peft.LoraConfig(r=4, lora_alpha=8, modules_to_save=["classifier"], **options)
    config.target_modules = {"q_proj", "v_proj", "query", "value", "fc1"}
    model = peft.get_peft_model(vit(), config)
    return randomised(model)


def parameters(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same(first, second):
    first, second = parameters(first), parameters(second)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def output(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if model.config.model_type == "vit":
            return model(pixel_values=torch.randn(2, 1, 8, 8, generator=generator)).logits
        tokens = torch.randint(2, 60, (2, 7), generator=generator)
        targets = {"decoder_input_ids": tokens[:, :3]} if model.config.is_encoder_decoder else {}
        return model(input_ids=tokens, **targets).logits


def train(model, steps=2):
    """A few steps of plain torch on random images."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        model(pixel_values=images, labels=torch.arange(4)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_the_snippet_of_the_official_readme_runs_with_its_import_changed(tmp_path, capsys):
    vit().save_pretrained(tmp_path / "ckpt")
    ckpt_path = str(tmp_path / "ckpt")

    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(ckpt_path, num_labels=10, ignore_mismatched_sizes=True)
    raffm_model = RaFFM(model.to("cpu"))
    print("Original FM number of parameters:", raffm_model.total_params)
    submodel, params, config = raffm_model.random_resource_aware_model()
    print("subnetwork params", params)

    assert output(submodel).shape == (2, 10)
    assert raffm_model.total_params == sum(p.numel() for p in model.parameters()) / 1e6 > params
    assert params == sum(p.numel() for p in submodel.parameters()) / 1e6
    assert json.loads(json.dumps(config)) == config and config.keys() == {"layer_1", "layer_2"}
    assert "subnetwork params" in capsys.readouterr().out


def test_importing_the_package_imports_neither_torch_nor_transformers():
    program = (
        "import raffm_mpi, sys; print([n for n in ('torch', 'transformers', 'raffm_mpi.api') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("build", [vit, bert, llama, t5])
def test_an_arc_config_through_json_reproduces_its_sub_model(build):
    raffm = RaFFM(build())
    submodel, params, arc = raffm.random_resource_aware_model(seed=3)
    again, same_params, same_arc = raffm.resource_aware_model(json.loads(json.dumps(arc)))
    assert same_arc == arc
    assert_same(submodel, again)
    assert params == same_params < raffm.total_params


def test_an_arc_config_cuts_whole_heads_and_leaves_the_rest_full():
    raffm = RaFFM(vit(), SPACE)
    submodel, *_ = raffm.resource_aware_model({"layer_1": {"atten_out": 16, "inter_hidden": 20}})
    shapes = {name.split("layer")[-1]: p.shape for name, p in submodel.named_parameters() if p.ndim == 2}
    full = {name.split("layer")[-1]: p.shape for name, p in raffm.model.named_parameters() if p.ndim == 2}
    cut = {tuple(full[name]): tuple(shape) for name, shape in shapes.items() if shape != full[name]}
    assert len([n for n in shapes if shapes[n] != full[n]]) == 6  # q, k, v, o and the two of the FFN, in one layer
    assert cut == {(24, 24): (24, 16), (40, 24): (20, 24), (24, 40): (24, 20)}


def test_the_smallest_model_has_every_width_at_its_smallest():
    raffm = RaFFM(vit(), SPACE)
    _, params, arc = raffm.sample_smallest_model()
    layer = {"atten_out": 8, "inter_hidden": 10, "residual_hidden": 24}
    assert arc == {"layer_1": layer, "layer_2": layer}
    assert all(params <= raffm.random_resource_aware_model()[1] for _ in range(10))


def test_sampling_follows_the_seed_and_never_the_clock():
    first, second = RaFFM(vit(), SPACE), RaFFM(vit(), SPACE)
    arcs = [[raffm.random_resource_aware_model()[2] for _ in range(5)] for raffm in (first, second)]
    assert arcs[0] == arcs[1]
    assert any(arc != arcs[0][0] for arc in arcs[0])
    assert first.random_resource_aware_model(seed=7)[2] == second.random_resource_aware_model(seed=7)[2]
    assert [RaFFM(vit(), SPACE, seed=1).random_resource_aware_model()[2]] != arcs[0][:1]


def test_a_space_comes_from_a_file_from_the_config_or_by_layer(tmp_path):
    (tmp_path / "elastic_space.json").write_text(json.dumps(SPACE), encoding="utf-8")
    assert RaFFM(vit(), tmp_path / "elastic_space.json").elastic_config == SPACE
    model = vit()
    model.config.elastic_config = SPACE
    assert RaFFM(model).elastic_config == SPACE
    by_layer = {"layer_1": {"inter_hidden_space": [10]}, "layer_2": {"inter_hidden_space": [20]}}
    arc = RaFFM(vit(), by_layer).sample_smallest_model()[2]
    assert [arc[layer]["inter_hidden"] for layer in ("layer_1", "layer_2")] == [10, 20]
    old = {"atten_out_space": [24], "inter_hidden_space": [40], "out_hidden_space": [16]}
    assert RaFFM(vit(), old).sample_smallest_model()[2]["layer_1"]["residual_hidden"] == 16


@pytest.mark.parametrize("metric", ["l1", "paper", torch.square], ids=["l1", "paper", "square"])
def test_prioritisation_moves_rows_and_keeps_the_output(metric):
    raffm = RaFFM(vit(), SPACE)
    model, before, rows = raffm.model, output(raffm.model), parameters(raffm.model)
    raffm.salient_parameter_prioritization(metric=metric)
    assert raffm.model is model
    torch.testing.assert_close(output(model), before, atol=1e-5, rtol=1e-5)
    moved = {name for name, tensor in parameters(model).items() if not torch.equal(tensor, rows[name])}
    only_queries_and_keys = all(any(n in name for n in ("q_proj", "k_proj", "query", "key")) for name in moved)
    assert moved and only_queries_and_keys == (metric == "paper")


@pytest.mark.parametrize("build", [vit, bert, llama, t5])
def test_aggregating_untouched_sub_models_gives_the_model_back_bit_for_bit(build):
    raffm = RaFFM(build())
    before = parameters(raffm.model)
    raffm.aggregate([raffm.random_resource_aware_model()[0] for _ in range(3)], weights=[1, 5, 2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters(raffm.model).items())


def test_aggregation_averages_each_entry_over_the_sub_models_that_hold_it():
    raffm = RaFFM(vit(), SPACE)
    before = parameters(raffm.model)
    small, full = raffm.resource_aware_model(UNEVEN)[0], copy.deepcopy(raffm.model)
    with torch.no_grad():
        for model, change in ((small, 3.0), (full, 1.0)):
            for parameter in model.parameters():
                parameter += change
    raffm.aggregate([small, full], weights=[1, 3])
    for name, tensor in parameters(raffm.model).items():
        change = tensor - before[name]
        if "fc1" in name or "intermediate" in name:
            layer = 20 if "0" in name else 10
            torch.testing.assert_close(change[:layer], torch.full_like(change[:layer], 1.5))
            torch.testing.assert_close(change[layer:], torch.full_like(change[layer:], 1.0))
        elif "norm" in name:
            torch.testing.assert_close(change, torch.full_like(change, 1.5))


def test_aggregation_does_not_depend_on_the_order_of_the_local_models():
    results = []
    for step in (1, -1):
        raffm = RaFFM(vit(), SPACE)
        local = [train(raffm.random_resource_aware_model(seed)[0]) for seed in range(4)]
        raffm.aggregate(local[::step], weights=[1, 2, 3, 4][::step])
        results.append(raffm.model)
    assert_same(*results)


def test_a_checkpoint_comes_back_bit_for_bit_with_its_space_and_holds_no_pickle(tmp_path):
    raffm = RaFFM(vit(), SPACE)
    raffm.salient_parameter_prioritization()
    raffm.save_ckpt(tmp_path)
    other = RaFFM(vit(), {"inter_hidden_space": [40]})
    other.load_ckpt(tmp_path)
    assert_same(raffm.model, other.model)
    assert other.elastic_config == SPACE
    other.aggregate([raffm.random_resource_aware_model()[0]])  # the order of the rows is known too
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("build", [vit, bert, llama, t5])
def test_a_sub_model_saves_and_loads_bit_for_bit(build, tmp_path):
    raffm = RaFFM(build())
    submodel, _, _ = raffm.random_resource_aware_model(seed=3)
    submodel.save_pretrained(tmp_path)
    loaded = load_submodel(tmp_path)
    assert type(loaded) is type(submodel) and not submodel.config.raffm_submodel["plain"]
    assert_same(submodel, loaded)
    assert torch.equal(output(submodel), output(loaded))
    raffm.aggregate([loaded])  # it knows its selection


PLAIN = [
    (vit, "ImageClassification", {"inter_hidden": 20}),
    (vit, "ImageClassification", {"atten_out": 16, "residual_hidden": 16}),
    (bert, "SequenceClassification", {"inter_hidden": 20}),
    (t5, "Seq2SeqLM", {"atten_out": 12, "inter_hidden": 20}),
]


@pytest.mark.parametrize(("build", "auto", "widths"), PLAIN, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_hubs_classes_load_a_sub_model_of_a_plain_shape_with_the_same_output(build, auto, widths, tmp_path):
    raffm = RaFFM(build())
    layers = raffm.sample_smallest_model()[2]
    submodel, *_ = raffm.resource_aware_model({n: {k: w for k, w in widths.items() if k in layers[n]} for n in layers})
    submodel.save_pretrained(tmp_path)
    loaded = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(tmp_path)
    assert_same(submodel, loaded)
    assert torch.equal(output(submodel), output(loaded))
    assert_same(submodel, load_submodel(tmp_path))
    raffm.aggregate([load_submodel(tmp_path)])


NOT_PLAIN = [
    (vit, "ImageClassification", UNEVEN),  # layers differ
    (bert, "SequenceClassification", NARROW),  # its pooler is wider than its residual
]


@pytest.mark.parametrize(("build", "auto", "arc"), NOT_PLAIN, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_shape_that_no_config_says_is_refused_by_the_hubs_classes_and_read_by_ours(build, auto, arc, tmp_path):
    submodel, *_ = RaFFM(build()).resource_aware_model(arc)
    submodel.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ismatch"):
        getattr(transformers, f"AutoModelFor{auto}").from_pretrained(tmp_path)
    assert_same(load_submodel(tmp_path), submodel)


def test_frozen_parameters_stay_frozen_in_sub_models_and_are_not_counted():
    model = vit()
    model.vit.requires_grad_(False)
    raffm = RaFFM(model, SPACE)
    submodel, params, _ = raffm.sample_smallest_model()
    assert raffm.total_params == params == (5 * 24 + 5) / 1e6
    assert {name for name, p in submodel.named_parameters() if p.requires_grad} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_a_sub_model_trains_with_the_trainer_of_transformers_and_aggregates(tmp_path):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate (pip install accelerate)")
    raffm = RaFFM(vit(), SPACE)
    before = parameters(raffm.model)
    submodel, _, _ = raffm.sample_smallest_model()
    images = torch.randn(8, 1, 8, 8)
    options = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none", save_strategy="no", use_cpu=True
    )
    data = [{"pixel_values": image, "labels": number % 5} for number, image in enumerate(images)]
    trainer = transformers.Trainer(model=submodel, args=options, train_dataset=data)
    trainer.train()
    trainer.save_model(str(tmp_path / "local"))
    assert_same(load_submodel(tmp_path / "local"), submodel)
    raffm.aggregate([submodel])
    assert any(not torch.equal(tensor, before[name]) for name, tensor in parameters(raffm.model).items())


def test_adapters_are_cut_with_their_base_and_keep_their_share_of_the_output():
    model = adapted()
    raffm = RaPEFT(model, SPACE)
    submodel, trained, arc = raffm.smallest_peft_model()
    assert arc["layer_1"] == {"atten_out": 8, "inter_hidden": 10, "residual_hidden": 24}
    assert trained == sum(p.numel() for p in submodel.parameters() if p.requires_grad) < raffm.total_params * 1e6
    merged = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(output(submodel), output(RaFFM(merged, SPACE).resource_aware_model(arc)[0]))
    assert_same(submodel, raffm.resource_aware_peft_model(arc)[0])
    wrappers = [module for module in submodel.modules() if hasattr(module, "lora_A")]
    assert wrappers and all(module.out_features == module.base_layer.out_features for module in wrappers)
    assert raffm.random_peft_model(seed=4)[2] == raffm.random_peft_model(seed=4)[2]


def test_adapters_are_reordered_with_their_base_and_keep_the_output():
    raffm = RaPEFT(adapted(), SPACE)
    before = output(raffm.model)
    raffm.salient_parameter_prioritization()
    torch.testing.assert_close(output(raffm.model), before, atol=1e-5, rtol=1e-5)


def test_aggregating_adapters_trains_them_and_leaves_the_base(tmp_path):
    raffm = RaPEFT(adapted(), SPACE)
    before, trained = parameters(raffm.model), {n for n, p in raffm.model.named_parameters() if p.requires_grad}
    raffm.aggregate([raffm.random_peft_model()[0] for _ in range(3)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters(raffm.model).items())
    local = [train(raffm.random_peft_model()[0]) for _ in range(3)]
    for name, parameter in local[0].named_parameters():
        parameter.data += name not in trained  # what a client does to its base stays with it
    raffm.aggregate(local)
    after = parameters(raffm.model)
    assert {name for name in after if not torch.equal(after[name], before[name])} == trained
    raffm.salient_parameter_prioritization()
    raffm.save_ckpt(tmp_path)
    other = RaPEFT(adapted())
    other.load_ckpt(tmp_path)
    assert_same(raffm.model, other.model)
    other.aggregate([raffm.random_peft_model()[0]])  # the order of the rows is known too
    assert other.elastic_config == SPACE
