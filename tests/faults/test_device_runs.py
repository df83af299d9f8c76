"""Runs whose clients have devices: the same bits and virtual times on any number of ranks, after deaths and resumes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml

from raffm_mpi.analysis.power import energy_by_device, peak_w, power_trace
from raffm_mpi.devices import DEVICE_NUMBERS
from raffm_mpi.log import check_log, open_run
from support.small_federation import differences, run_alone

# Devices on which the small federation's clients take some 4 to 20 virtual seconds a round.
SLOW = dict(zip(DEVICE_NUMBERS, (1e9, 1e7, 1e4, 1e4, 5.0, 3.0, 1.0), strict=True))
FAST = {**SLOW, "flops_per_s": 1e8, "downlink_bytes_per_s": 1e5, "uplink_bytes_per_s": 5e4, "compute_w": 20.0}
SMALL = {**SLOW, "memory_bytes": 1000.0}  # holds nothing


@pytest.fixture(scope="module")
def devices(config) -> list[str]:
    """The settings of a run with everything on, as overrides; written once for all of its starts."""
    path = config.parent / "devices.yaml"
    path.write_text(yaml.safe_dump({"profiles": {"slow": SLOW, "fast": FAST, "small": SMALL}}))
    settings = {
        "population": {"slow": 0.5, "fast": 0.25, "small": 0.25},
        "profiles": str(path),
        "deadline_s": 12.0,
        "over_selection": 0.5,
        "dropout": 0.15,
        "availability": {"kind": "on_off", "on_s": 60.0, "off_s": 20.0},
    }
    method = {
        "name": "raffm",
        "budget": "device",
        "space": {"ffn": [0.25, 0.5, 1.0], "heads": [1, 2, 3], "head_width": [4, 8]},
    }
    flow = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()}"
        for key, value in {"devices": settings, "method": method}.items()
    ]
    return [*flow, "federation.participation=0.4"]


@pytest.fixture(scope="module")
def on_devices(config, devices):
    """The folder of the undisturbed run, on one rank."""
    output = config.parent / "on_devices"
    result = run_alone(config, f"output={output}", *devices)
    assert result.returncode == 0, result.stderr
    return output


def test_widths_follow_devices_and_every_fate_of_a_client_is_seen(on_devices):
    with open_run(on_devices) as run:
        clients = run.clients.merge(run.devices[["device", "name"]], on="device")
        assert set(clients["status"]) >= {"trained", "unable", "gone", "surplus"}
        assert (clients.loc[clients["name"] == "small", "status"] == "unable").all()
        assert not (clients.loc[clients["name"] != "small", "status"] == "late").any()  # budgets keep the deadline
        size = clients[clients["status"] == "trained"].groupby("name")["parameters"].mean()
        assert size["slow"] < size["fast"] == run.submodels["parameters"][0]
        assert run.partition.groupby("device").size().tolist() == run.devices["num_clients"].tolist()
        assert (run.rounds["virtual_round_s"] <= 12.0).all()
        assert (clients["virtual_train_s"] + clients["virtual_wait_s"] <= 12.0).all()
    assert check_log(on_devices) == []


def test_bytes_and_energy_of_the_log_are_those_of_selections_power_and_time(on_devices):
    with open_run(on_devices) as run:
        clients = run.clients.merge(run.devices, on="device").merge(run.submodels[["submodel", "bytes"]], on="submodel")
        trained = clients[clients["status"] == "trained"]
        assert (trained["bytes_down"] == trained["bytes"]).all()
        assert (trained["bytes_up"] == trained["bytes"]).all()
        expected_s = trained["bytes"] / trained["downlink_bytes_per_s"]
        np.testing.assert_allclose(trained["virtual_download_s"], expected_s)
        np.testing.assert_allclose(trained["virtual_train_s"], trained["train_flops"] / trained["flops_per_s"])
        joules = (
            clients["compute_w"] * clients["virtual_train_s"]
            + clients["transfer_w"] * (clients["virtual_download_s"] + clients["virtual_upload_s"])
            + clients["idle_w"] * clients["virtual_wait_s"]
        )
        np.testing.assert_allclose(clients["energy_j"], joules)
        np.testing.assert_allclose(run.clients.groupby("round")["energy_j"].sum(), run.rounds["energy_j"])
        ends = run.rounds["virtual_start_s"] + run.rounds["virtual_round_s"]
        assert (run.rounds["virtual_start_s"][1:].to_numpy() >= ends[:-1].to_numpy()).all()
        trace = power_trace(run)
        areas = trace["power_w"].to_numpy()[:-1] * np.diff(trace["virtual_s"])
        assert areas.sum() == pytest.approx(run.rounds["energy_j"].sum())
        assert trace["power_w"].iloc[-1] == pytest.approx(0, abs=1e-6)
        assert peak_w(run) == trace["power_w"].max() > 0
        assert energy_by_device(run)["energy_j"].sum() == pytest.approx(run.rounds["energy_j"].sum())


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_the_number_of_ranks_changes_neither_bits_nor_virtual_time(
    mpirun, raffm_mpi_command, config, devices, on_devices, tmp_path, ranks
):
    result = mpirun(ranks, *raffm_mpi_command("run", config, f"output={tmp_path / 'run'}", *devices))
    assert result.returncode == 0, result.stderr
    assert differences(on_devices, tmp_path / "run") == []


def test_dead_ranks_change_nothing(killed, devices, on_devices, tmp_path):
    result = killed(3, "2:training:1 1:commit:3", *devices)
    assert result.returncode == 0, result.stderr
    assert differences(on_devices, tmp_path / "run") == []


def test_a_killed_run_resumes_on_other_ranks_at_its_virtual_time(killed, resume, devices, on_devices, tmp_path):
    result = killed(1, "0:commit:3", *devices, options=())
    assert result.returncode not in (0, 1, 2), result.stderr
    for ranks in (1, 3):
        output = shutil.copytree(tmp_path / "run", tmp_path / f"on_{ranks}")
        result = resume(output, ranks, *devices)
        assert result.returncode == 0, result.stderr
        assert differences(on_devices, output) == []


def test_a_run_does_not_go_on_with_other_devices(resume, config, devices, on_devices, tmp_path):
    output = shutil.copytree(on_devices, tmp_path / "run")
    other = tmp_path / "other.yaml"
    other.write_text((config.parent / "devices.yaml").read_text().replace("compute_w: 20.0", "compute_w: 21.0"))
    result = resume(output, 1, *devices, f"devices.profiles={other}", "federation.num_rounds=7")
    assert result.returncode == 2
    assert "devices: these are other devices" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_deadline_that_nobody_meets_ends_the_run_with_a_sentence(config, tmp_path):
    devices = "devices={population: xsmall, deadline_s: 1.0e-6}"
    result = run_alone(config, f"output={tmp_path / 'run'}", devices)
    assert result.returncode == 1
    assert "0 of 6 clients gave an update" in result.stderr
    assert "late at the deadline" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        ("{population: huge}", "devices.population: unknown population 'huge'; known: xsmall"),
        ("{population: {raspberry_pi_4: 0.5}}", "devices.population: the shares add up to 0.5; allowed is 1"),
    ],
)
def test_bad_devices_end_a_run_with_one_sentence(config, tmp_path, devices, sentence):
    result = run_alone(config, f"output={tmp_path / 'run'}", f"devices={devices}")
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raffm-mpi: ")]
    assert sentence in line
    assert not (tmp_path / "run").exists()
