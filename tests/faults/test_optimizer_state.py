"""The state of the server's optimizer outlives the server: what goes on after its death ends with the same bits."""

from __future__ import annotations

import shutil
import subprocess

import h5py
import pytest
import yaml

from raffm_mpi.config import load_settings
from raffm_mpi.errors import UserMistake
from raffm_mpi.federation.verify import verify
from raffm_mpi.recovery import checkpoint as checkpoints
from raffm_mpi.recovery.resume import find_start
from support.small_federation import differences, run_alone
from support.waiting import TIMEOUT_S
from support.warm_server import warm_python

YOGI = "server.optimizer=fedyogi"


@pytest.fixture(scope="module")
def with_yogi(config):
    """The folder of the undisturbed run with FedYogi."""
    output = config.parent / "with_yogi"
    result = run_alone(config, f"output={output}", YOGI)
    assert result.returncode == 0, result.stderr
    return output


def test_a_server_killed_in_a_commit_goes_on_to_the_same_bits(killed, resume, with_yogi, undisturbed, tmp_path):
    result = killed(1, "0:commit:3", YOGI, options=())
    assert result.returncode not in (0, 1, 2), result.stderr
    newest, _ = checkpoints.found(tmp_path / "run")
    assert newest.round < 3
    assert set(newest.state["parts"]) == {"model.safetensors", "optimizer.safetensors"}
    for ranks in (1, 3):
        output = shutil.copytree(tmp_path / "run", tmp_path / f"on_{ranks}")
        result = resume(output, ranks, YOGI)
        assert result.returncode == 0, result.stderr
        assert differences(with_yogi, output) == []
        assert verify(output) == []
    assert differences(undisturbed, output)[0].startswith("final_model_sha256")


def test_rounds_run_again_from_a_checkpoint_have_its_state(with_yogi):
    command = [*warm_python(), "-m", "raffm_mpi", "verify", with_yogi, "--replay", "5:6"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 0, result.stderr
    assert "rounds 5 to 5 come out the same" in result.stdout


def test_a_checkpoint_whose_optimizer_is_damaged_is_not_used(with_yogi, config, tmp_path):
    output = shutil.copytree(with_yogi, tmp_path / "run")
    settings = load_settings(config, [f"output={output}", "resume=auto", YOGI])
    newest, before = checkpoints.found(output)
    path = newest.folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    start = find_start(settings)
    assert start.next_round == before.round + 1
    assert "optimizer.safetensors' does not have the SHA-256" in start.remarks[0]
    assert any("optimizer.safetensors" in flaw for flaw in checkpoints.check(output))


def test_a_run_from_before_there_were_server_optimizers_goes_on_without_one(half, config, tmp_path):
    output = shutil.copytree(half, tmp_path / "run")
    with h5py.File(output / "run.h5", "a") as file:
        old = yaml.safe_load(file.attrs["config"])
        assert old.pop("server")["optimizer"] == "none"
        file.attrs["config"] = yaml.safe_dump(old)
    start = find_start(load_settings(config, [f"output={output}", "resume=auto"]))
    assert (start.next_round, start.optimizer) == (3, {})
    assert set(start.checkpoint.state["parts"]) == {"model.safetensors"}
    with pytest.raises(UserMistake, match=r"server\.optimizer was 'none' and is now 'fedyogi'"):
        find_start(load_settings(config, [f"output={output}", "resume=auto", YOGI]))
