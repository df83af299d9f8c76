"""Options go with the choice that they are of and have an effect; what has moved says where; old logs are read."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from raffm_mpi.config import Settings, check_logged, check_settings
from raffm_mpi.config.describe import sections
from raffm_mpi.config.moved import MOVED
from raffm_mpi.errors import UserMistake

GOOD: dict[str, Any] = {"output": "runs/x", "model": {"family": "vit"}, "federation": {"num_clients": 10}}
ADAPTERS = {**GOOD, "model": {"family": "vit", "lora": {}}}
DEVICES = {"devices": {"population": "small"}}
CHOICES = sorted({(section.name, section.tag.split(": ")[1]) for section in sections() if section.tag})


def nested(place: str, value: Any, base: dict[str, Any] = ADAPTERS) -> dict[str, Any]:
    """Valid settings with a value at a dotted place; with adapters, so that each aggregation is allowed."""
    first, _, inner = place.partition(".")
    return {**base, first: {inner: value} if inner else value}


def mistake(values: dict[str, Any]) -> str:
    with pytest.raises(UserMistake) as error:
        check_settings(values, "config")
    return str(error.value)


@pytest.mark.parametrize(("group", "tag"), [choice for choice in CHOICES if ":" not in choice[1]])
def test_a_tag_alone_is_its_group_with_all_defaults(group, tag):
    if tag in ("by_column", "file"):  # which need an option
        pytest.skip("needs an option")
    place = {"method.budget": ("method", {"name": "raffm", "budget": tag})}
    place |= {"devices.availability": ("devices", {"population": "small", "availability": tag})}
    where, value = place.get(group, (group, tag))
    base = GOOD if tag == "prism" else ADAPTERS  # which goes without adapters
    alone = check_settings({**nested(where, value, base), **(DEVICES if tag == "device" else {})}, "config")
    name = {"method": "name", "training": "optimizer", "server": "optimizer"}.get(group, "kind")
    found: Any = alone
    for part in group.split("."):
        found = getattr(found, part)
    assert getattr(found, name) == tag
    assert Settings.model_validate(yaml.safe_load(alone.to_yaml())) == alone


# group -> the option and the choices that it goes with
FOREIGN = {
    ("data.partition", "kind", "shots", 3): ["k_shot"],
    ("data.partition", "kind", "replacement", True): ["k_shot"],
    ("data.partition", "kind", "alpha", 0.1): ["dirichlet"],
    ("data.partition", "kind", "shards_per_client", 3): ["shards"],
    ("data.partition", "kind", "column", "user"): ["by_column"],
    ("training", "optimizer", "momentum", 0.9): ["sgd"],
    ("server", "optimizer", "momentum", 0.9): ["fedavgm"],
    ("server", "optimizer", "tau", 0.1): ["fedadagrad", "fedadam", "fedyogi"],
    ("server", "optimizer", "beta1", 0.1): ["fedadam", "fedyogi"],
    ("method", "name", "space", 3): ["raffm"],
    ("method", "name", "salience", "none"): ["raffm"],
    ("method", "name", "distillation", 0.5): ["raffm", "fjord"],
    ("method", "name", "axes", "ffn"): ["heterofl", "fedrolex", "fjord"],
    ("method", "name", "density", 0.5): ["prunefl"],
    ("method", "name", "options", 3): ["file.py:Class"],
}


@pytest.mark.parametrize(("group", "tag", "option", "value"), FOREIGN, ids=str)
def test_an_option_of_another_choice_is_refused_with_those_that_it_goes_with(group, tag, option, value):
    takers = FOREIGN[group, tag, option, value]
    for _, other in (choice for choice in CHOICES if choice[0] == group and choice[1] not in takers):
        if ":" in other:
            continue
        needed = {"column": "user"} if other == "by_column" else {}
        said = mistake(nested(group, {tag: other, option: value, **needed}))
        assert said == f"config: {group}.{option} goes with {tag} {', '.join(takers)}, not {other}"


IDLE = {
    "data": ({"validation_split": "dev", "validation_fraction": 0.2}, "validation_fraction goes without"),
    "training": ({"decay_every_rounds": 5}, "decay_every_rounds goes with learning_rate_decay below 1"),
    "method": ({"name": "fjord", "temperature": 2.0}, "temperature goes with distillation above 0"),
    "method ": ({"name": "prunefl", "density": 1.0, "reconfigure_every": 3}, "reconfigure_every goes with density"),
    "compute": ({"device": "cpu", "server_device": "cpu"}, "server_device goes with device auto or cuda, not cpu"),
    "compute ": ({"device": "cpu", "gpu_aware_mpi": True}, "gpu_aware_mpi goes with device auto or cuda, not cpu"),
    "reliability": ({"checkpoint_every": None, "checkpoints_kept": 3}, "checkpoints_kept goes with checkpoint_every"),
}


@pytest.mark.parametrize("group", IDLE)
def test_an_option_that_the_others_switch_off_is_refused_where_it_is_given(group):
    values, sentence = IDLE[group]
    said = mistake({**GOOD, group.strip(): values})
    assert said.startswith(f"config: {group.strip()}: {sentence}")
    # Left out, the same settings are allowed, and what is written of them reads back.
    option = sentence.split()[0]
    kept = {name: value for name, value in values.items() if name != option}
    settings = check_settings({**GOOD, group.strip(): kept}, "config")
    assert option not in settings.model_dump()[group.strip()]
    assert check_settings(yaml.safe_load(settings.to_yaml()), "config") == settings


MOVES = {
    "method.widths": ("budget", "method.budget: drawn"),
    "method.budgets": ([1.0, 0.5], "method.budget: {kind: drawn, shares: [1.0, 0.5]}"),
    "method.budget_of": ("flops", "method.budget: {kind: drawn, of: flops}"),
    "federation.paper_faithful": (True, "aggregation: official"),
    "model.lora.aggregation": ("flexlora", "aggregation: flexlora"),
}


@pytest.mark.parametrize("place", MOVED)
def test_a_setting_of_0_1_that_has_moved_says_its_new_spelling_which_is_allowed(place):
    given, spelling = MOVES[place]
    values = {**GOOD, "method": {"name": "raffm"}, "model": {"family": "vit", "lora": {}}}
    *groups, last = place.split(".")
    values = yaml.safe_load(yaml.safe_dump(values))
    changed: Any = values
    for group in groups:
        changed = changed[group]
    changed[last] = given
    assert mistake(values) == f"config: {place} is now {spelling}"
    del changed[last]
    key, _, new = spelling.partition(": ")
    value = yaml.safe_load(new)
    moved = {**values, "method": {"name": "raffm", "budget": value}} if key != "aggregation" else {**values, key: value}
    check_settings(moved, "config")


OLD: dict[str, Any] = {
    "seed": 3,
    "output": "runs/old",
    "resume": "never",
    "model": {"name": None, "family": "vit", "config": {}, "lora": None},
    "data": {
        "path": "digits",
        "task": None,
        "partition": {
            "kind": "dirichlet",
            "alpha": 0.3,
            "min_examples": 1,
            "shards_per_client": 2,
            "shots": 16,
            "replacement": False,
            "column": None,
        },
    },
    "federation": {"num_clients": 10, "participation": 0.1, "num_rounds": 10, "paper_faithful": False},
    "method": {
        "name": "raffm",
        "salience": "all",
        "widths": "sandwich",
        "budgets": [],
        "budget_of": "parameters",
        "budget": "drawn",
        "distillation": 0.0,
    },
    "training": {"optimizer": "adamw", "momentum": 0.0, "learning_rate_decay": 1.0, "decay_every_rounds": 5},
    "server": {"optimizer": "none", "learning_rate": None, "momentum": None, "beta1": None, "beta2": None, "tau": None},
    "devices": {
        "population": "small",
        "availability": {"kind": "daily", "on_s": 9.0, "off_s": None, "start_h": 1.0, "spread_h": 2.0, "path": None},
    },
    "compute": {"device": "cpu", "server_device": "auto", "gpu_aware_mpi": False},
    "reliability": {"checkpoint_every": None, "checkpoints_kept": 2},
}
DRAWN = {"widths": "budget", "budgets": [0.5], "budget_of": "flops", "budget": "drawn"}
LORA = {"rank": 4, "alpha": 16.0, "dropout": 0.0, "targets": None, "ranks": [], "aggregation": "hetlora"}


def test_the_settings_of_a_log_of_0_1_are_read_as_what_they_meant():
    settings = check_logged(OLD, ["seed=4"], "log")
    assert settings.seed == 4
    assert OLD["seed"] == 3
    expected = {**GOOD, "output": "runs/old", "seed": 4, **DEVICES, "compute": {"device": "cpu"}}
    expected["data"] = {"partition": {"kind": "dirichlet", "alpha": 0.3}}
    expected["devices"]["availability"] = {"kind": "daily", "on_s": 9.0, "start_h": 1.0}
    expected["reliability"] = {"checkpoint_every": None}
    assert settings == check_settings(expected, "config")


@pytest.mark.parametrize(
    ("group", "old", "place", "new"),
    [
        ("method", {"name": "raffm", **DRAWN}, "budget", {"kind": "drawn", "shares": [0.5], "of": "flops"}),
        ("method", {"name": "raffm", **DRAWN, "budget": "device", "budgets": []}, "budget", {"kind": "device"}),
        (
            "method",
            {"name": "fjord", "budgets": [0.5], "budget_of": "parameters", "budget": "drawn", "temperature": 1.0},
            "budget",
            {"kind": "drawn", "shares": [0.5], "of": "parameters"},
        ),
        ("federation", {"num_clients": 4, "paper_faithful": True}, None, {"kind": "official"}),
        ("model", {"family": "vit", "lora": LORA}, None, {"kind": "hetlora"}),
    ],
)
def test_what_has_moved_is_read_from_a_log_of_0_1(group, old, place, new):
    settings = check_logged({**OLD, group: old}, [], "log").model_dump()
    assert (settings[group][place] if place else settings["aggregation"]) == new


def test_a_log_of_a_newer_release_is_refused_with_its_setting():
    with pytest.raises(UserMistake, match=r"log 'x': method\.colour: unknown key"):
        check_logged({**OLD, "method": {**OLD["method"], "colour": 1}}, [], "log 'x'")
