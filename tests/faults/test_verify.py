"""``raffm-mpi verify`` finds what is wrong, and runs rounds again to the same bits, or says that they are not."""

from __future__ import annotations

import shutil
import subprocess

import h5py
import numpy as np
import pytest

from raffm_mpi.errors import UserMistake
from raffm_mpi.federation.verify import parse_rounds
from support.waiting import TIMEOUT_S
from support.warm_server import warm_python


def verify(*arguments):
    command = [*warm_python(), "-m", "raffm_mpi", "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.parametrize(("rounds", "said"), [("2", "rounds 0 to 1"), ("5:6", "rounds 5 to 5")])
def test_rounds_run_again_from_the_beginning_or_from_a_checkpoint_come_out_the_same(undisturbed, rounds, said):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    result = verify(undisturbed, "--replay", rounds)
    assert result.returncode == 0, result.stderr
    assert f"is whole, and {said} come out the same" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_rounds_that_come_out_otherwise_are_named(undisturbed, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "run")
    with h5py.File(output / "run.h5", "a") as file:
        config = file.attrs["config"].replace("learning_rate: 0.001", "learning_rate: 0.002")
        file.attrs["config"] = config
    result = verify(output, "--replay", "1")
    assert result.returncode == 1
    assert "raffm-mpi: round 0: the clients' " in result.stderr
    assert "raffm-mpi: round 0: the model comes out otherwise" in result.stderr


def test_a_checkpoint_of_another_model_is_found(undisturbed, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "run")
    older, newer = sorted((output / "checkpoints").iterdir())
    shutil.rmtree(newer)
    shutil.copytree(older, newer)
    (newer / "model.safetensors").write_bytes(b"\0" * 100)
    result = verify(output)
    assert result.returncode == 1
    assert "model.safetensors' does not have the SHA-256" in result.stderr


@pytest.mark.parametrize("text", ["0", "a", "3:3", "4:2", ":", "-1", "2:"])
def test_what_names_no_rounds_is_refused(text):
    with pytest.raises(UserMistake, match="names no rounds; allowed are"):
        parse_rounds(text)


def test_rounds_that_were_not_run_are_refused(undisturbed):
    result = verify(undisturbed, "--replay", "5:9")
    assert result.returncode == 2
    assert "round 8 is not in" in result.stderr
    assert "Traceback" not in result.stderr
    assert np.array_equal(parse_rounds("3"), (0, 3))
