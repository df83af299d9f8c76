"""How every process of a command ends: a mistake is a sentence and status 2, a fault a traceback and status 1."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from support.waiting import TIMEOUT_S
from support.warm_server import warm_python

PROGRAM = Path(__file__).parent / "programs" / "faulty.py"

# A method whose constructor fails on one rank.
METHOD = """
import os
from support.waiting import TIMEOUT_S
from raffm_mpi.errors import UserMistake
from raffm_mpi.methods import Method

class Faulty(Method):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        if os.environ.get("OMPI_COMM_WORLD_RANK", "0") == os.environ["FAULTY_RANK"]:
            raise {error}

    def selections(self, *_):
        return []
"""

# What each command calls first, and arguments that it takes.
COMMANDS = {
    "run": ("raffm_mpi.config:load_settings", ["x.yaml"]),
    "supervise": ("raffm_mpi.config:load_settings", ["x.yaml"]),
    "doctor": ("raffm_mpi.doctor.examine:examine", []),
    "forecast": ("raffm_mpi.config:load_settings", ["x.yaml"]),
    "calibrate": ("raffm_mpi.config:load_settings", ["x.yaml"]),
    "launch": ("raffm_mpi.launch.jobs:Batch.of", ["x.yaml"]),
    "verify": ("raffm_mpi.federation.verify:verify", ["x"]),
    "report": ("raffm_mpi.analysis.report:write_report", ["x"]),
    "compare": ("raffm_mpi.analysis.comparison:gather", ["x"]),
    "watch": ("raffm_mpi.analysis.watch:watch", ["x"]),
    "tensorboard": ("raffm_mpi.log:open_run", ["x"]),
}


def said(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("raffm-mpi: ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_of_any_command_is_a_sentence_and_any_other_error_shows_its_place(command):
    place, arguments = COMMANDS[command]
    for error, status in (("UserMistake", 2), ("ValueError", 1)):
        words = [*warm_python(), PROGRAM, place, error, "0", command, *arguments]
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == status, done.stderr
        if error == "UserMistake":
            assert len(said(done.stderr)) == 1 and "it went wrong" in said(done.stderr)[0]
            assert "Traceback" not in done.stderr
        else:
            assert done.stderr.count("Traceback") == 1
            assert f'File "{PROGRAM}", line' in done.stderr and "in fail" in done.stderr
            assert "ValueError: it went wrong" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("rank", "error"), [("0", "KeyError"), ("1", "OSError"), ("1", "SystemExit")])
def test_a_fault_of_one_rank_in_the_set_up_ends_all_with_its_place(
    mpirun, raffm_mpi_command, federations, tmp_path, rank, error
):
    method = tmp_path / "own.py"
    method.write_text(METHOD.format(error=f"{error}('no such width')"))
    command = raffm_mpi_command(
        "run", federations / "vit.yaml", f"output={tmp_path / 'run'}", f"method={{name: '{method}:Faulty'}}"
    )
    done = mpirun(3, *command, env={"FAULTY_RANK": rank})
    assert done.returncode == 1, done.stderr
    assert f'File "{method}", line' in done.stderr and "in __init__" in done.stderr
    (line,) = said(done.stderr)
    assert line.startswith(f"raffm-mpi: rank {rank} of 3 on {socket.gethostname()}: ")
    assert f"method '{method}:Faulty': {error}: " in line and "no such width" in line


def test_a_mistake_that_one_rank_finds_in_the_set_up_is_said_once(mpirun, raffm_mpi_command, federations, tmp_path):
    method = tmp_path / "own.py"
    method.write_text(METHOD.format(error="UserMistake('method.width: 7 is odd')"))
    command = raffm_mpi_command(
        "run", federations / "vit.yaml", f"output={tmp_path / 'run'}", f"method={{name: '{method}:Faulty'}}"
    )
    done = mpirun(3, *command, env={"FAULTY_RANK": "1"})
    assert done.returncode == 2, done.stderr
    assert said(done.stderr) == ["raffm-mpi: method.width: 7 is odd"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("rank", "place"),
    [
        ("0", "raffm_mpi.federation.server:Server.run"),
        ("1", "raffm_mpi.federation.client_group:ClientGroup.serve"),
    ],
)
def test_a_mistake_that_one_rank_meets_alone_leaves_no_other_waiting(mpirun, federations, tmp_path, rank, place):
    words = [*warm_python(), PROGRAM, place, "UserMistake", rank]
    done = mpirun(3, *words, "run", federations / "vit.yaml", f"output={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert said(done.stderr)[-1] == f"raffm-mpi: rank {rank} of 3 on {socket.gethostname()}: it went wrong"
    assert "Traceback" not in done.stderr


def without_mpi(folder: Path) -> dict[str, str]:
    """The environment of a process in which mpi4py cannot be imported."""
    (folder / "mpi4py").mkdir(parents=True)
    (folder / "mpi4py" / "__init__.py").write_text("raise ImportError('there is no MPI here')")
    return {"PYTHONPATH": str(folder)}


def test_one_process_needs_no_mpi_library_and_comes_to_the_bits_of_1_and_3_ranks(
    mpirun, raffm_mpi_command, federations, tmp_path
):
    from raffm_mpi.log import check_log, open_run

    def command(name: str) -> list[str]:
        return raffm_mpi_command("run", federations / "vit.yaml", f"output={tmp_path / name}")

    missing = without_mpi(tmp_path / "stub")
    alone = subprocess.run(
        command("alone"), env={**os.environ, **missing}, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert alone.returncode == 0, alone.stderr
    assert mpirun(1, *command("one")).returncode == 0
    assert mpirun(3, *command("three")).returncode == 0
    runs = [open_run(tmp_path / name) for name in ("alone", "one", "three")]
    assert len({run.attributes["final_model_sha256"] for run in runs}) == 1
    assert [run.attributes["num_ranks"] for run in runs] == [1, 1, 3]
    assert check_log(tmp_path / "alone") == []
    refused = mpirun(2, *command("refused"), env=missing)
    assert refused.returncode == 2
    assert "no MPI library can be loaded (there is no MPI here); install one" in said(refused.stderr)[0]
    assert "Traceback" not in refused.stderr
