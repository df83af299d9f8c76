"""The small federation with ranks that die, and gone on with; tests/conftest.py has it undisturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raffm_mpi.log import open_run
from support.small_federation import run_alone
from support.waiting import TIMEOUT_S
from support.warm_server import warm_python

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def killed(mpirun, config: Path, tmp_path: Path):
    """``killed(ranks, kills, *arguments)``: run programs/killed.py under ULFM; returns the finished process.

    One rank is a process without mpirun.
    """

    def run(ranks: int, kills: str, *arguments: str, options=("--with-ft", "ulfm")):
        # mpirun itself ends what was stopped and not killed, so that has to be its own child.
        python = [sys.executable] if "SIGSTOP" in kills else warm_python()
        command = [*python, PROGRAMS / "killed.py", "run", config, f"output={tmp_path / 'run'}", *arguments]
        env = {"KILLS": kills, "PIDS": str(tmp_path)}
        if ranks == 1:
            return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=TIMEOUT_S)
        return mpirun(ranks, *command, env=env, options=options)

    return run


@pytest.fixture
def deaths():
    """``deaths(output)``: the ranks that the log tells the death of, in order."""

    def read(output: Path) -> list[int]:
        with open_run(output) as run:
            events = run.events[run.events["kind"] == "recovery"]
            assert events["message"].str.contains(r"died \(found .*\): \d+ clients that it had are trained again").all()
            return events["rank"].tolist()

    return read


@pytest.fixture(scope="session")
def half(config: Path) -> Path:
    """The folder of a run of the first three of the six rounds, which is finished but may go on."""
    output = config.parent / "half"
    result = run_alone(config, f"output={output}", "federation.num_rounds=3")
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture
def resume(mpirun, raffm_mpi_command, config: Path):
    """``resume(output, ranks=1, *arguments)``: go on with a run to its six rounds; returns the finished process."""

    def run(output: Path, ranks: int = 1, *arguments: str):
        if ranks == 1:
            return run_alone(config, f"output={output}", "--resume", *arguments)
        return mpirun(ranks, *raffm_mpi_command("run", config, f"output={output}", "--resume", *arguments))

    return run
