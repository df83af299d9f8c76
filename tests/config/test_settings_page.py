"""Every setting has a sentence, and docs/settings.md, the command and the settings say the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raffm_mpi.cli import app
from raffm_mpi.config import check_settings
from raffm_mpi.config.describe import COMMAND, markdown, sections

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
SECTIONS = sections()
GOOD = {"output": "x", "model": {"family": "vit"}, "federation": {"num_clients": 4}}
UNITS = {"_s": "second", "_h": "hour"}


def test_the_page_is_what_the_settings_say():
    assert PAGE.read_text(encoding="utf-8") == markdown(), f"run: {COMMAND}"


def test_every_setting_and_every_group_has_a_sentence_with_its_unit():
    for section in SECTIONS:
        assert section.meaning.endswith((".", ")")), section
        for entry in section.entries:
            place = f"{section.name}.{entry.name}"
            assert entry.meaning.endswith("."), place
            for suffix, unit in UNITS.items():
                assert not entry.name.endswith(suffix) or unit in entry.meaning.lower(), place


def test_the_sections_hold_every_setting_of_every_group():
    written = check_settings({**GOOD, "devices": {"population": "small"}}, "config").model_dump()
    listed = {f"{section.name}.{entry.name}".removeprefix(".") for section in SECTIONS for entry in section.entries}

    def walk(values, prefix=""):
        for name, value in values.items():
            if name not in ("kind", "name", "optimizer") or prefix == "model.":
                assert f"{prefix}{name}" in listed
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    walk(written)
    assert {"server.tau", "data.partition.shots", "method.density", "model.lora.ranks"} <= listed


def test_the_command_prints_a_group_in_100_columns_with_default_and_what_is_allowed():
    said = CliRunner().invoke(app, ["settings", "data.partition"]).output
    assert "data.partition {kind: dirichlet}\n" in said
    assert "  alpha: 0.5\n      The concentration of the distribution" in said
    assert "number above 0." in said
    assert "training" not in said
    everything = CliRunner().invoke(app, ["settings"]).output
    assert all(len(line) <= 100 for line in everything.splitlines())
    assert all(section.name in everything for section in SECTIONS)


def test_an_unknown_group_is_a_mistake_with_the_nearest_one():
    result = CliRunner().invoke(app, ["settings", "traning"])
    assert result.exit_code == 2
    assert "unknown group of settings 'traning', did you mean 'training'? known: model, " in result.stderr


PATHS = {
    "output": {"output": "~/a"},
    "model.name": {"model": {"name": "~/a"}},
    "data.path": {"data": {"path": "~/a"}},
    "data.cache": {"data": {"cache": "~/a"}},
    "data.tokenizer": {"data": {"tokenizer": "~/a"}},
    "devices.profiles": {"devices": {"population": "small", "profiles": "~/a"}},
    "devices.availability.path": {"devices": {"population": "small", "availability": {"kind": "file", "path": "~/a"}}},
}


@pytest.mark.parametrize("place", PATHS)
def test_the_home_folder_is_expanded_in_every_path(monkeypatch, place):
    monkeypatch.setenv("HOME", "/home/me")
    found = check_settings({**GOOD, **PATHS[place]}, "config")
    for name in place.split("."):
        found = getattr(found, name)
    assert found == "/home/me/a"


def test_all_paths_are_tested_the_default_cache_and_a_methods_file_are_expanded(monkeypatch):
    listed = {
        f"{s.name}.{entry.name}".removeprefix(".") for s in SECTIONS for entry in s.entries if "path" in entry.allowed
    }
    assert listed == set(PATHS)
    monkeypatch.setenv("HOME", "/home/me")
    settings = check_settings({**GOOD, "data": {}, "method": "~/m.py:M"}, "config")
    assert settings.data.cache == os.path.join("/home/me", ".cache/raffm_mpi")
    assert settings.method.name == "/home/me/m.py:M"


def test_a_name_on_the_hub_stays_as_it_is():
    settings = check_settings({**GOOD, "model": {"name": "google/vit"}, "data": {"path": "cifar10"}}, "config")
    assert (settings.model.name, settings.data.path) == ("google/vit", "cifar10")
