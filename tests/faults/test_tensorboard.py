"""TensorBoard's files: the log's numbers, each step once, whether written as the run goes on or afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raffm_mpi.cli import app
from raffm_mpi.log import open_run
from raffm_mpi.log.tensorboard import export
from support.small_federation import differences, run_alone

Scalars = dict[str, list[tuple[int, float]]]


def scalars(folder: Path) -> Scalars:
    """Steps and values by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def exported(run: Path, folder: Path) -> Scalars:
    with open_run(run) as log:
        export(log, folder).close()
    return scalars(folder)


@pytest.fixture(scope="module")
def followed(config) -> Path:
    """A run of three of the six rounds that wrote events as it went on."""
    output = config.parent / "followed"
    result = run_alone(config, f"output={output}", "federation.num_rounds=3", "log.tensorboard=true")
    assert result.returncode == 0, result.stderr
    return output


def test_events_are_the_numbers_of_the_log(followed, half, tmp_path):
    found = scalars(followed / "tensorboard")
    with open_run(followed) as run:
        for name in ("train_loss", "bytes_down", "num_trained", "round_s"):
            steps, values = zip(*found[f"rounds/{name}"], strict=True)
            assert list(steps) == [0, 1, 2]
            np.testing.assert_allclose(values, run.rounds[name], rtol=1e-6)
        assert not any("virtual" in tag for tag in found)  # no devices, nothing known
        metrics = run.metrics[(run.metrics["submodel"] == 0) & (run.metrics["split"] == "validation")]
        for name, rows in metrics.groupby("metric"):
            steps, values = zip(*found[f"validation/{name}"], strict=True)
            assert list(steps) == rows["round"].tolist()
            np.testing.assert_allclose(values, rows["value"], rtol=1e-6)
        assert "test/loss/submodel 1" in found
    assert found == exported(followed, tmp_path / "events")
    assert differences(followed, half) == []  # it changes no bit of a run


def test_a_resumed_run_has_each_step_once(followed, resume, tmp_path):
    output = shutil.copytree(followed, tmp_path / "run")
    result = resume(output, 3, "log.tensorboard=true")
    assert result.returncode == 0, result.stderr
    found = scalars(output / "tensorboard")
    assert [step for step, _ in found["rounds/train_loss"]] == list(range(6))
    assert found == exported(output, tmp_path / "events")


def test_it_may_be_turned_on_at_a_resume(half, resume, tmp_path):
    output = shutil.copytree(half, tmp_path / "run")
    result = resume(output, 1, "log.tensorboard=true")
    assert result.returncode == 0, result.stderr
    assert scalars(output / "tensorboard") == exported(output, tmp_path / "events")


def test_the_command_writes_them_and_says_how_to_look(half, tmp_path, capsys):
    app(["tensorboard", str(half), "--output", str(tmp_path / "events")], standalone_mode=False)
    assert capsys.readouterr().out == f"tensorboard --logdir {tmp_path / 'events'}\n"
    first = scalars(tmp_path / "events")
    app(["tensorboard", str(half), "--output", str(tmp_path / "events")], standalone_mode=False)
    assert scalars(tmp_path / "events") == first  # and not twice
    with pytest.raises(SystemExit) as ending:
        app(["tensorboard", str(tmp_path / "nowhere")], standalone_mode=False)
    assert ending.value.code == 2
    assert "does not exist" in capsys.readouterr().err


def test_without_the_package_a_sentence_says_what_to_install(config, tmp_path):
    program = "import sys; sys.modules['tensorboard'] = None; from raffm_mpi.cli import main; main()"
    words = ["run", config, f"output={tmp_path / 'run'}", "log.tensorboard=true"]
    result = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)
    assert result.returncode == 2
    assert "pip install 'raffm_mpi[tensorboard]'" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
