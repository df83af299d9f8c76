"""The calibration file, and what refuses it."""

from __future__ import annotations

import re

import pytest

from raffm_mpi.errors import UserMistake
from raffm_mpi.forecast.calibration import Calibration


def test_what_is_written_is_read(calibration, tmp_path):
    path = tmp_path / "new" / "calibration.yaml"
    for written in (calibration, calibration.model_copy(update={"exchange": None})):
        written.write(path)
        assert Calibration.read(path) == written
    assert [file.name for file in path.parent.iterdir()] == ["calibration.yaml"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: v.pop("base_s"), "base_s is missing; measure again with raffm-mpi calibrate"),
        (lambda v: v.update(speed=1), "speed: unknown key; allowed: device, device_name, cores, "),
        (lambda v: v["exchange"].update(speed=1), "exchange.speed: unknown key; allowed: num_ranks, num_hosts, "),
        (lambda v: v["exchange"].pop("latency_s"), "exchange.latency_s is missing"),
        (lambda v: v.pop("exchange"), "exchange is missing"),
        (lambda v: v.update(training_flops_per_s=0), "training_flops_per_s: 0 is not allowed: input should be greater"),
        (lambda v: v.update(training_flops_per_s=float("inf")), "training_flops_per_s: inf is not allowed"),
        (lambda v: v.update(cores="many"), "cores: 'many' is not allowed"),
        (
            lambda v: v.update(device="tpu"),
            "device: 'tpu' is not allowed, did you mean 'cpu'? input should be 'cpu' or",
        ),
    ],
)
def test_each_mistake_in_the_file_is_one_sentence(calibration_file, change, sentence):
    path = calibration_file(change)
    with pytest.raises(UserMistake, match=re.escape(f"calibration '{path}': {sentence}")) as caught:
        Calibration.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- 1", "must be a mapping of names to values, got list"),
        ("a: [", "is not YAML: "),
        ("", "must be a mapping of names to values, got NoneType"),
    ],
)
def test_what_is_no_calibration_is_refused(tmp_path, text, sentence):
    path = tmp_path / "calibration.yaml"
    path.write_text(text)
    with pytest.raises(UserMistake, match=f"calibration '{path}' {sentence}"):
        Calibration.read(path)


def test_a_file_that_is_not_there_or_cannot_be_written_is_named(calibration, tmp_path):
    with pytest.raises(UserMistake, match=r"calibration '.*none\.yaml' does not exist"):
        Calibration.read(tmp_path / "none.yaml")
    (tmp_path / "file").touch()
    with pytest.raises(UserMistake, match=r"calibration '.*' cannot be written: "):
        calibration.write(tmp_path / "file" / "calibration.yaml")
