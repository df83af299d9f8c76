"""Profiles: the paper's devices and populations with their sources; mistakes of a user's file in one sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from raffm_mpi.config import DeviceSettings, check_settings, load_settings
from raffm_mpi.devices import DEVICE_NUMBERS, make_fleet, read_profiles
from raffm_mpi.devices.fleet import counts
from raffm_mpi.errors import UserMistake

OWN = {
    "memory_bytes": 1e9,
    "flops_per_s": 1e9,
    "downlink_bytes_per_s": 1e6,
    "uplink_bytes_per_s": 1e6,
    "compute_w": 5.0,
    "transfer_w": 2.0,
    "idle_w": 1.0,
}
CONFIGS = Path(__file__).parents[2] / "configs"
PUBLISHED_KW = {"xsmall": 0.62, "small": 3.20, "medium": 7.34, "large": 16.28, "xlarge": 25.71}


def write(tmp_path, profiles, **more) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"profiles": profiles, **more}))
    return str(path)


def test_every_number_of_every_profile_has_a_source():
    for name, profile in read_profiles().profiles.items():
        assert set(profile.sources) == set(DEVICE_NUMBERS), name
        assert all(profile.sources.values()), name


@pytest.mark.parametrize("name", PUBLISHED_KW)
def test_the_papers_populations_draw_its_peak_power_where_all_of_100_clients_train(name):
    fleet = make_fleet(DeviceSettings(population=name), 100, seed=0)
    watts = [profile.compute_w for profile in fleet.profiles.values()]
    assert round(float(fleet.num_clients @ watts) / 1000, 2) == PUBLISHED_KW[name]


@pytest.mark.parametrize("name", PUBLISHED_KW)
def test_one_config_takes_each_of_the_five_populations(name):
    settings = load_settings(CONFIGS / "devices.yaml", [f"devices.population={name}"])
    assert settings.devices.population == name
    assert settings.method.needs_devices
    assert make_fleet(settings.devices, 100, seed=0).num_clients.sum() == 100


def test_devices_are_dealt_by_share_and_seed_and_idle_draws_less_than_work():
    fleets = [make_fleet(DeviceSettings(population="small"), 10, seed) for seed in (0, 0, 1)]
    assert all(fleet.num_clients.tolist() == [4, 4, 2] for fleet in fleets)
    assert fleets[0].of_client.tolist() == fleets[1].of_client.tolist() != fleets[2].of_client.tolist()
    for profile in read_profiles().profiles.values():
        assert profile.idle_w < profile.transfer_w < profile.compute_w


def test_shares_become_whole_clients_with_the_largest_remainders_rounded_up():
    assert counts([0.5, 0.3, 0.2], 7).tolist() == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert counts([0.1] * 10, 10).tolist() == [1] * 10
    assert counts([1 / 3, 1 / 3, 1 / 3], 1_000_000).sum() == 1_000_000


def test_a_file_adds_devices_and_populations_and_replaces_those_of_the_same_name(tmp_path):
    mine = {"mine": OWN, "nvidia_v100": {**OWN, "idle_w": 0.5}}
    path = write(tmp_path, mine, populations={"half": {"mine": 0.5, "nvidia_v100": 0.5}})
    fleet = make_fleet(DeviceSettings(population="half", profiles=path), 4, seed=0)
    assert sorted(fleet.profiles) == ["mine", "nvidia_v100"]
    assert fleet.profiles["nvidia_v100"].idle_w == 0.5
    assert fleet.num_clients.tolist() == [2, 2]
    assert "raspberry_pi_4" in read_profiles(path).profiles


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"idle_w": -3.0},
            r"profiles\.mine\.idle_w: -3\.0 is not allowed: input should be greater than or equal",
        ),
        ({"memory_bytes": 0}, r"profiles\.mine\.memory_bytes: 0 is not allowed: input should be greater than 0$"),
        ({"uplink_bytes_per_s": None}, r"profiles\.mine\.uplink_bytes_per_s: null is not allowed: a number is needed$"),
        ({"flops": 3.0}, r"profiles\.mine\.flops: unknown key, did you mean 'flops_per_s'\? allowed: memory_bytes, "),
    ],
)
def test_a_wrong_number_of_a_profile_is_refused_in_one_sentence(tmp_path, change, sentence):
    path = write(tmp_path, {"mine": {**OWN, **change}})
    with pytest.raises(UserMistake, match=sentence) as refused:
        read_profiles(path)
    assert str(refused.value).startswith(f"devices.profiles '{path}': ")
    assert "\n" not in str(refused.value)


def test_a_missing_number_is_refused_by_its_name(tmp_path):
    path = write(tmp_path, {"mine": {name: value for name, value in OWN.items() if name != "flops_per_s"}})
    with pytest.raises(UserMistake, match=r"own\.yaml': profiles\.mine\.flops_per_s is missing$"):
        read_profiles(path)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserMistake, match=r"none\.yaml' does not exist$"):
        read_profiles(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("profiles: [")
    with pytest.raises(UserMistake, match=r"bad\.yaml' is not YAML"):
        read_profiles(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    ("population", "sentence"),
    [
        ("huge", "devices.population: unknown population 'huge'; known: xsmall, small, medium, large, xlarge"),
        ({"pi_6": 1.0}, "devices.population: unknown device 'pi_6'; known: raspberry_pi_4, "),
    ],
)
def test_unknown_populations_and_devices_are_refused_with_the_known_ones(population, sentence):
    with pytest.raises(UserMistake, match="^" + sentence):
        make_fleet(DeviceSettings(population=population), 10, seed=0)


def test_shares_that_do_not_add_up_are_refused_with_their_sum(tmp_path):
    with pytest.raises(ValidationError, match=r"the shares add up to 0\.9; allowed is 1"):
        DeviceSettings(population={"raspberry_pi_4": 0.5, "raspberry_pi_5": 0.4})
    with pytest.raises(ValidationError, match=r"the share of raspberry_pi_4 is -1; allowed are fractions"):
        DeviceSettings(population={"raspberry_pi_4": -1, "raspberry_pi_5": 2})
    path = write(tmp_path, {}, populations={"half": {"raspberry_pi_4": 0.5}})
    with pytest.raises(UserMistake, match=r"populations\.half: the shares add up to 0\.5; allowed is 1$"):
        read_profiles(path)


MODEL = {"family": "vit", "config": {}}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": {"name": "raffm", "budget": "device"}}, "method.budget device needs devices, which is missing"),
        (
            {"devices": {"population": "small", "availability": {"kind": "always", "on_s": 3}}},
            "devices.availability.on_s goes with kind on_off, daily, not always",
        ),
        (
            {"devices": {"population": "small", "availability": {"kind": "file"}}},
            "devices.availability.path is missing",
        ),
        (
            {"devices": {"population": "small", "availability": {"kind": "daily", "on_s": 90000}}},
            "devices.availability.on_s: 90000 is not allowed: input should be less than or equal to 86400",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, sentence):
    with pytest.raises(UserMistake, match=sentence):
        check_settings({"output": "x", "model": MODEL, "federation": {"num_clients": 4}, **settings}, "config")


def test_shares_that_do_not_add_up_are_one_sentence_of_the_config(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {"output": "x", "model": MODEL, "federation": {"num_clients": 4}, "devices": {"population": {"a": 0.5}}}
        )
    )
    with pytest.raises(UserMistake, match=r"devices\.population.*the shares add up to 0\.5") as refused:
        load_settings(config)
    assert "\n" not in str(refused.value)
