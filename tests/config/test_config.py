"""Settings are typed, unknown keys are refused, and every mistake is named at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raffm_mpi.config import RaFFMSettings, Settings, load_settings
from raffm_mpi.errors import UserMistake

GOOD = "output: runs/x\nmodel: {family: vit}\nfederation: {num_clients: 10}\n"
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_project_is_valid(path):
    assert load_settings(path).output.startswith("runs/")


def test_overrides_are_yaml_values_of_dotted_keys(config):
    settings = load_settings(
        config(GOOD), ["training.learning_rate=3e-5", "data.partition={kind: dirichlet, alpha: 0.1}", "seed=3"]
    )
    assert settings.training.learning_rate == 3e-5
    assert settings.data.partition.alpha == 0.1
    assert settings.seed == 3


def test_the_resolved_settings_read_back_as_themselves(config):
    settings = load_settings(config(GOOD + "method: {name: raffm, space: {heads: [1, 2]}}"))
    assert Settings.model_validate(yaml.safe_load(settings.to_yaml())) == settings
    assert isinstance(settings.method, RaFFMSettings)


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [
        ("none", {}),
        ("fedavgm", {"learning_rate": 1.0, "momentum": 0.9}),
        ("fedadagrad", {"learning_rate": 0.01, "tau": 1e-3}),
        ("fedadam", {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}),
        ("fedyogi", {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}),
    ],
)
def test_a_server_optimizer_has_defaults_of_its_own_which_are_written_out_and_read_back(config, optimizer, numbers):
    settings = load_settings(config(GOOD), [f"server.optimizer={optimizer}"])
    assert settings.server.numbers == numbers
    assert Settings.model_validate(yaml.safe_load(settings.to_yaml())) == settings
    if numbers:
        given = load_settings(
            config(GOOD), [f"server.optimizer={optimizer}", "server.learning_rate=0.5", "server.beta1=null"]
        )
        assert given.server.numbers == {**numbers, "learning_rate": 0.5}


def test_every_mistake_is_named_at_once(config):
    text = (
        GOOD + "training: {batch_size: many, learning_rat: 1}\ndata: {validation_fraction: 2}\nevaluation: {every: 0}"
    )
    with pytest.raises(UserMistake, match="batch_size") as error:
        load_settings(config(text))
    sentences = str(error.value).splitlines()
    assert len(sentences) == 4
    assert "training.learning_rat: unknown key, did you mean 'learning_rate'? allowed: optimizer," in str(error.value)
    assert all(sentence.count(str(config(text))) == 1 for sentence in sentences)


@pytest.mark.parametrize(
    ("text", "override", "sentence"),
    [
        (GOOD, "training.local_steps=x", "training.local_steps: 'x' is not allowed"),
        (GOOD, "federation.participation=0", "federation.participation: 0 is not allowed"),
        (GOOD, "federation.participation=.nan", "federation.participation: nan is not allowed"),
        (GOOD, "federation.num_clients=null", "federation.num_clients is missing"),
        (GOOD, "model.name=vit", "give either name (a hub name or folder with weights) or family"),
        (GOOD, "model={}", "give either name (a hub name or folder with weights) or family"),
        (
            GOOD,
            "method={name: fedavgg}",
            "method: unknown name 'fedavgg', did you mean 'fedavg'? known: fedavg, raffm, ",
        ),
        (
            GOOD,
            "method=fedavgg",
            "method: unknown name 'fedavgg', did you mean 'fedavg'? known: fedavg, raffm, ",
        ),
        (GOOD, "method={salience: all}", "method: name is missing; known: fedavg, raffm, heterofl, "),
        (GOOD, "method={name: fedavg, width: 3}", "method.width: unknown key; allowed: name"),
        (
            GOOD,
            "method={name: fedavg, axes: [ffn]}",
            "method.axes goes with name heterofl, fedrolex, fjord, not fedavg",
        ),
        (GOOD, "method.budget=drawn", "method: name is missing; known: fedavg"),
        (
            GOOD,
            "method={name: raffm, budget: {shares: [1]}}",
            "method.budget.shares goes with kind drawn, not sandwich",
        ),
        (
            GOOD,
            "method={name: raffm, budget: drawm}",
            "method.budget: unknown kind 'drawm', did you mean 'drawn'?",
        ),
        (
            GOOD,
            "method={name: fjord, budget: sandwich}",
            "method.budget: unknown kind 'sandwich'; known: drawn, device",
        ),
        (GOOD, "method=3", "method: 3 is not allowed; known: fedavg, "),
        (
            GOOD,
            "method=~nobody-here/x.py:X",
            "method.name: '~nobody-here/x.py:X': there is no home folder '~nobody-here'",
        ),
        (GOOD, "aggregation=hetlora", "aggregation hetlora is of adapters and needs model.lora, which is missing"),
        (GOOD, "data.partition=3", "data.partition: 3 is not allowed; known: iid, dirichlet, "),
        (GOOD, 'output="a\\0b"', "output: 'a\\x00b' is no path"),
        (GOOD, "output=", "output: null is not allowed: a text is needed"),
        (GOOD, "compute.device=cpuu", "compute.device: 'cpuu' is not allowed, did you mean 'cpu'? input should be "),
        (GOOD, "log=[1]", "log: [1] is not allowed: a group of settings is needed"),
        (GOOD, "evaluation.personal=1", "evaluation.personal: 1 is not allowed: true or false is needed"),
        (GOOD, "training.batch_size=8.0", "training.batch_size: 8.0 is not allowed: a whole number is needed"),
        (GOOD, "training.learning_rate=true", "training.learning_rate: true is not allowed: a number is needed"),
        (GOOD, "method={name: raffm, space: {ffn: [1.5]}}", "ffn has 1.5"),
        (GOOD, "method={name: raffm, space: {heads: [0]}}", "heads has 0"),
        (GOOD, "training={local_steps: 3, local_epochs: 1}", "give local_epochs or local_steps, not both"),
        (GOOD, "training={momentum: 0.9}", "momentum goes with optimizer sgd, not adamw"),
        (GOOD, "server={momentum: 0.9}", "server.momentum goes with optimizer fedavgm, not none"),
        (
            GOOD,
            "server={optimizer: fedadagrad, beta1: 0}",
            "beta1 goes with optimizer fedadam, fedyogi, not fedadagrad",
        ),
        (
            GOOD,
            "server={learning_rate: 1}",
            "learning_rate goes with optimizer fedavgm, fedadagrad, fedadam, fedyogi, ",
        ),
        (GOOD, "server={optimizer: fedadam, beta2: 1}", "server.beta2: 1 is not allowed"),
        (GOOD, "server={optimizer: fedadam, tau: 0}", "server.tau: 0 is not allowed"),
        (
            GOOD,
            "server={optimizer: [fedadam]}",
            "server: unknown optimizer ['fedadam'], did you mean 'fedadam'?",
        ),
        (
            GOOD + "aggregation: official",
            "server.optimizer=fedadam",
            "server.optimizer fedadam steps on a mean update, which aggregation official does not give",
        ),
        (GOOD, "data.partition.kind=by_column", "data.partition.column is missing"),
        (GOOD, "data.partition.kind=random", "data.partition: unknown kind 'random'; known: iid, "),
        (GOOD, "seed", "override 'seed' is not of the form key=value"),
        (GOOD + "seed: 0\n", "seed.x=1", "override 'seed.x=1': 'seed' is a value, not a group of settings"),
        (GOOD, "seed={", "override 'seed={': the value is not YAML: "),
        ("- 1", "seed=0", "must be a mapping of names to values, got list"),
        ("a: [", "seed=0", "is not YAML"),
    ],
)
def test_a_mistake_gets_one_clear_sentence(config, text, override, sentence):
    with pytest.raises(UserMistake, match=r".") as error:
        load_settings(config(text), [override])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(UserMistake, match=r"config '.*nope\.yaml' does not exist"):
        load_settings(tmp_path / "nope.yaml")
