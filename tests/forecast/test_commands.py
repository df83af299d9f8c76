"""The commands, on real runs: what is predicted against what the log says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from raffm_mpi.cli import app
from raffm_mpi.config import load_settings
from raffm_mpi.devices import DEVICE_NUMBERS, read_profiles
from raffm_mpi.forecast.calibration import Calibration
from raffm_mpi.forecast.needs import derive_round, makespan_s, volume
from raffm_mpi.forecast.sketch import sketch
from raffm_mpi.log import open_run
from support import tiny
from support.waiting import TIMEOUT_S

PLANS = Path(__file__).parent / "programs" / "plans.py"


def test_bytes_flops_and_makespan_are_those_of_the_log(mpirun, raffm_mpi_command, config, calibration, tmp_path):
    settings = load_settings(config)
    before = [volume(derive_round(sketch(settings), number)) for number in range(2)]  # nothing is prepared yet
    result = mpirun(3, *raffm_mpi_command("run", config, f"output={tmp_path / 'run'}"))
    assert result.returncode == 0, result.stderr
    run = open_run(tmp_path / "run")
    after = [volume(derive_round(sketch(settings), number)) for number in range(2)]
    for volumes in (before, after):
        assert [drawn.exchange_bytes for drawn in volumes] == run.rounds["exchange_bytes"].tolist()
        assert [drawn.clients_bytes for drawn in volumes] == run.clients.groupby("round")["bytes_down"].sum().tolist()
        assert [drawn.parameters for drawn in volumes] == run.rounds["envelope_parameters"].tolist()
    assert all(drawn.is_packed for drawn in after)
    np.testing.assert_array_equal(np.concatenate([drawn.flops for drawn in after]), run.clients["train_flops"])
    # Before it has measured anything the schedule takes 1e10 FLOP/s and 10 ms a client.
    update = {"training_flops_per_s": 1e10, "base_s": 0.01, "update_bytes_per_s": 1e30}
    guess = calibration.model_copy(update=update)
    assert makespan_s(after[0], 2, guess) == pytest.approx(run.rounds["predicted_s"][0])


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_node_is_measured_and_a_plan_follows(mpirun, raffm_mpi_command, config, tmp_path, capsys, ranks):
    path = tmp_path / "calibration.yaml"
    result = mpirun(ranks, *raffm_mpi_command("calibrate", config, "--output", path))
    assert result.returncode == 0, result.stderr
    calibration = Calibration.read(path)
    assert calibration.num_groups == max(1, ranks - 1)
    assert 1e7 < calibration.training_flops_per_s < 1e12
    if ranks == 1:
        assert calibration.exchange is None and "the exchange was not measured" in result.stdout
    else:
        assert (calibration.exchange.num_ranks, calibration.exchange.num_hosts) == (3, 1)
        assert 0 < calibration.exchange.latency_s < 1
    app(
        ["forecast", str(config), "--nodes", "2", "--gpus-per-node", "2", "--calibration", str(path)],
        standalone_mode=False,
    )
    printed = capsys.readouterr().out
    assert "node-hours: " in printed
    assert ("communication not measured" in printed) == (ranks == 1)


def test_this_machine_becomes_a_device_of_its_measured_speed_and_memory(mpirun, raffm_mpi_command, config, tmp_path):
    path, output = tmp_path / "mine.yaml", tmp_path / "calibration.yaml"
    given = ("calibrate", config, "--output", output, "--profile", path, "--like", "raspberry_pi_5")
    result = mpirun(1, *raffm_mpi_command(*given))
    assert result.returncode == 0, result.stderr
    known = read_profiles(str(path)).profiles
    mine, other, measured = known["mine"], known["raspberry_pi_5"], Calibration.read(output)
    assert mine.flops_per_s == measured.training_flops_per_s
    assert mine.memory_bytes == psutil.virtual_memory().total
    assert "measured by raffm-mpi calibrate" in mine.sources["flops_per_s"]
    rest = set(DEVICE_NUMBERS) - {"flops_per_s", "memory_bytes"}
    assert mine.model_dump(include=rest) == other.model_dump(include=rest)
    assert {mine.sources[name] for name in rest} == {"that of raspberry_pi_5"}


@pytest.mark.parametrize(
    ("ranks", "like", "sentence"),
    [
        (1, "pi_6", "--like: unknown device 'pi_6'; known: raspberry_pi_4, "),
        (2, "raspberry_pi_5", "--profile is of one device and takes one process, not 2 ranks"),
    ],
)
def test_what_cannot_be_a_profile_is_refused(mpirun, raffm_mpi_command, config, tmp_path, ranks, like, sentence):
    path = tmp_path / "mine.yaml"
    result = mpirun(ranks, *raffm_mpi_command("calibrate", config, "--profile", path, "--like", like))
    assert result.returncode == 2
    assert sentence in result.stderr and "Traceback" not in result.stderr
    assert not path.exists()


def test_billions_of_parameters_are_planned_without_mpi_and_without_their_memory(tmp_path):
    tiny.write_table(tmp_path / "data", train={"text": ["good film", "bad film"] * 50})
    values = {
        "output": str(tmp_path / "run"),
        "model": {
            "family": "llama",
            "config": {
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "vocab_size": 32000,
            },
        },
        "data": {
            "path": str(tmp_path / "data"),
            "task": "causal_lm",
            "tokenizer": str(tiny.write_tokenizer(tmp_path / "tokenizer")),
            "cache": str(tmp_path / "cache"),
        },
        "federation": {"num_clients": 50, "participation": 0.2},
    }
    config = tmp_path / "llama.yaml"
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, PLANS, "forecast", config, "--nodes", "4", "--gpus-per-node", "4"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 0, result.stderr
    assert "6,738,415,616 parameters" in result.stdout
    assert "mpi4py imported: False" in result.stdout
    peak_mib = int(result.stdout.split("peak MiB: ")[1])
    assert peak_mib < 2000  # the weights alone would take 25,705
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nodes", "0"], "--nodes: 0 is not allowed"),
        (["--calibration", "nowhere.yaml"], "calibration 'nowhere.yaml' does not exist"),
        (["method.name=fedrolx"], "unknown name 'fedrolx', did you mean 'fedrolex'?"),
        (["data.path=./nowhere"], "data.path: folder './nowhere' does not exist"),
        (["method.space={ffn: [1000]}"], "method.space.ffn: 1000 is wider than the model"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_status_2(config, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as left:
        app(["forecast", str(config), *arguments], standalone_mode=False)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("raffm-mpi: ") and sentence in line
