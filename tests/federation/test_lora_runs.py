"""Runs that train adapters: what travels, what keeps its bits, and each way to aggregate ranks of 2, 4 and 8."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from raffm_mpi.config import load_settings
from raffm_mpi.elastic.adapters import adapters_of, whole_layout
from raffm_mpi.federation.experiment import look
from raffm_mpi.federation.tally import CLIENT_REPORT
from raffm_mpi.learning.model import load_model, sha256
from raffm_mpi.log import open_run
from support.final_hashes import PROGRAM, hashes_on
from support.waiting import TIMEOUT_S
from support.warm_server import warm_python

peft = pytest.importorskip("peft", reason="LoRA needs peft (pip install peft)")

PLAIN = Path(__file__).parent / "programs" / "plain_fedavg.py"
SEVERAL = {"rank": 8, "ranks": [2, 4, 8]}
RAFFM = {"name": "raffm", "space": {"ffn": [0.25, 0.5, 1.0], "heads": [1, 2, 3], "head_width": [4, 8]}}
WAYS = ("mean", "hetlora", "flexlora", "stacking")
# name -> (model, lora, method)
VARIANTS = {
    "plain": ("vit", {"rank": 8, "dropout": 0.1}, "fedavg"),
    "alike": ("vit", {"rank": 8, "dropout": 0.1, "ranks": [8, 8]}, "fedavg"),
    **{f"vit-{way}": ("vit", SEVERAL, "fedavg") for way in WAYS},
    **{f"bert-{way}": ("bert", SEVERAL, "fedavg") for way in WAYS},
    **{f"elastic-{way}": ("vit", {**SEVERAL, "targets": ["q_proj", "fc1"]}, RAFFM) for way in WAYS},
}


def way_of(name):
    """How a variant aggregates."""
    return next((way for way in WAYS if name.endswith(way)), "mean")


@pytest.fixture(scope="module")
def configs(federations, tmp_path_factory):
    """A config for each variant: two rounds of six of twelve clients."""
    folder = tmp_path_factory.mktemp("lora")
    for name, (model, lora, method) in VARIANTS.items():
        settings = yaml.safe_load((federations / f"{model}.yaml").read_text())
        settings["model"] = {**settings["model"], "lora": lora}
        settings["training"] = {**settings["training"], "learning_rate": 1.0e-2}
        (folder / f"{name}.yaml").write_text(
            yaml.safe_dump({**settings, "method": method, "aggregation": way_of(name)})
        )
    return folder


@pytest.fixture(scope="module")
def alone(configs):
    """Every variant on one rank; the folder has a run for each as ``NAME-1``."""
    command = [*warm_python(), PROGRAM, configs, *(configs / f"{name}.yaml" for name in VARIANTS)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^sha256 (\S+) ([0-9a-f]{64})", done.stdout, re.MULTILINE))


def base_of(configs, name, lora=True):
    """The model that a run began with, from its settings alone."""
    settings = load_settings(configs / f"{name}.yaml")
    looked = look(settings)
    model = settings.model if lora else settings.model.model_copy(update={"lora": None})
    pad_token_id = 0 if name.startswith("bert") else None
    return load_model(model, looked.config, looked.info, settings.seed, pad_token_id)


def parameters(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_every_way_to_aggregate_trains_to_the_same_bits_on_3_ranks_as_on_1(mpirun, configs, alone):
    files = [configs / f"{name}.yaml" for name in VARIANTS]
    assert hashes_on(mpirun, 3, configs, files) == alone
    assert alone["plain"] == alone["alike"]
    assert len(set(alone.values())) == len(VARIANTS) - 1
    for name in VARIANTS:
        for ranks in (1, 3):
            run = open_run(configs / f"{name}-{ranks}")
            assert run.status == "finished"
            assert run.rounds["num_trained"].tolist() == [6, 6]
            assert run.evaluation["score"].notna().all()


def test_a_run_at_one_rank_is_plain_fedavg_of_adapters_bit_for_bit(configs, alone, tmp_path):
    command = [*warm_python(), PLAIN, configs / "plain.yaml", tmp_path / "plain"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert f"sha256 {alone['plain']}" in done.stdout


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.endswith("stacking")])
def test_the_saved_adapters_with_the_base_of_the_beginning_are_the_final_model(configs, alone, name):
    """In peft's own format; so the base has kept its bits, and the order that a run trains in does not show."""
    bare = base_of(configs, name, lora=False)
    before = {name: tensor.clone() for name, tensor in parameters(bare).items()}
    folder = configs / f"{name}-1" / "model"
    loaded = peft.PeftModel.from_pretrained(bare, str(folder))
    assert sha256(parameters(loaded)) == alone[name]
    began = base_of(configs, name)
    assert parameters(began).keys() == parameters(loaded).keys()
    for key, tensor in parameters(loaded).items():
        trained = ".lora_" in key or ".modules_to_save." in key
        assert torch.equal(tensor, parameters(began)[key]) != trained, key
    wrappers = [module for module in loaded.modules() if hasattr(module, "lora_A")]
    assert wrappers and {module.scaling["default"] for module in wrappers} == {16 / 8}
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".md"}
    assert before.keys() <= {
        key.replace("base_model.model.", "").replace(".base_layer", "").replace(".original_module", "")
        for key in parameters(loaded)
    }


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.endswith("stacking")])
def test_stacking_alone_changes_the_base_and_leaves_it_as_a_model_of_the_hub(configs, alone, name):
    bare = base_of(configs, name, lora=False)
    loaded = type(bare).from_pretrained(configs / f"{name}-1" / "model")
    before, after = parameters(bare), parameters(loaded)
    assert before.keys() == after.keys()
    adapted = {
        a.base.removeprefix("base_model.model.").replace(".base_layer", "")
        for a in adapters_of(whole_layout(base_of(configs, name)))
    }
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == adapted | {"classifier.weight", "classifier.bias"}


def test_adapters_and_the_head_alone_are_in_the_byte_counts(mpirun, configs, alone):
    """Two layers of four matrices of 24 x 24 with A and B of rank 8, and a head of ten classes."""
    hashes_on(mpirun, 2, configs, [configs / "plain.yaml"])
    adapters, head = 2 * 4 * 8 * (24 + 24), 10 * 24 + 10
    run = open_run(configs / "plain-2")
    assert set(run.clients["bytes_down"]) == set(run.clients["bytes_up"]) == {4 * (adapters + head)}
    assert set(run.clients["parameters"]) == set(run.rounds["envelope_parameters"]) == {adapters + head}
    entries = adapters + 240 + 16  # each tensor begins at a multiple of 16
    plan = 8 * (8 + 2 * 6)
    between = 4 * entries + 8 * entries + plan + 6 * CLIENT_REPORT.itemsize
    assert set(run.rounds["exchange_bytes"]) == {between}
    assert (run.checkpoints["bytes"] < 4 * (adapters + head) + 8000).all()


@pytest.mark.parametrize("way", WAYS)
def test_clients_of_several_ranks_send_and_receive_their_own(configs, alone, way):
    run = open_run(configs / f"vit-{way}-1")
    column = next(name for name in run.submodels.columns if name.startswith("rank["))
    rank_of = run.submodels.set_index("submodel")[column]
    ranks = rank_of.loc[run.clients["submodel"]].to_numpy().astype(int)
    assert set(ranks) == {2, 4, 8}
    own = 4 * (2 * 4 * ranks * 48 + 250)
    assert run.clients["bytes_up"].tolist() == own.tolist()
    for number in (0, 1):
        mine = (run.clients["round"] == number).to_numpy()
        down = own[mine] if way != "stacking" else [4 * (2 * 4 * ranks[mine].sum() * 48 + 250)] * 6
        assert run.clients["bytes_down"][mine].tolist() == list(down)
    assert sorted(run.evaluation["submodel"].unique())[:2] == [0, 1]  # the full rank and the smallest
    assert rank_of.loc[[0, 1]].tolist() == [8, 2]


def test_clients_of_raffm_train_narrow_slices_of_a_frozen_base(configs, alone):
    run = open_run(configs / "elastic-mean-1")
    assert run.clients["parameters"].nunique() > 4
    assert run.clients["train_flops"].nunique() > 4
    assert run.evaluation["submodel"].nunique() == 5  # raffm's four, and the smallest of them at the smallest rank


# Each takes two starts.
RESUMED = ["elastic-mean", pytest.param("vit-hetlora", marks=pytest.mark.slow), "vit-flexlora"]
RESUMED += [pytest.param("vit-stacking", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_has_the_same_bits(raffm_mpi_command, configs, alone, tmp_path, name):
    command = raffm_mpi_command("run", configs / f"{name}.yaml", f"output={tmp_path / 'run'}")
    for more in (["federation.num_rounds=1"], ["--resume"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
    assert open_run(tmp_path / "run").attributes["final_model_sha256"] == alone[name]


def test_an_unknown_target_ends_a_run_with_one_sentence(raffm_mpi_command, configs, tmp_path):
    command = raffm_mpi_command("run", configs / "plain.yaml", f"output={tmp_path / 'run'}")
    done = subprocess.run([*command, "model.lora.targets=[qproj]"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 2
    assert "model.lora.targets: 'qproj' is no linear layer of family 'vit'; known: q_proj" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()
