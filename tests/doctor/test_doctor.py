"""The command, alone and on real ranks, in good health and with things broken for real."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TOPICS = [
    "MPI",
    "launcher",
    "PMIx",
    "thread level",
    "failures",
    "failed nodes",
    "large counts",
    "versions",
    "cores",
    "GPUs",
    "GPU-aware MPI",
    "HDF5",
    "log",
    "space",
    "hub",
]


@pytest.fixture(params=[0, 1])
def full_disk(request, tmp_path):
    """A folder on a file system of its own with no page free, or one, in which a file begins."""
    place = tmp_path / "full"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True).returncode != 0:
        pytest.skip("no permission to mount a file system")
    try:
        (place / "filler").write_bytes(bytes((16 - request.param) * 4096))
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_alone_each_topic_has_one_line_and_all_is_well(alone, lines, tmp_path):
    done = alone(f"output={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert list(lines(done.stdout)) == TOPICS
    assert {level for level, _ in lines(done.stdout).values()} == {"ok"}, done.stdout
    assert done.stderr == "" and list(tmp_path.iterdir()) == []


def test_under_ulfm_all_ranks_are_well_in_one_table(mpirun, raffm_mpi_command, lines, tmp_path):
    done = mpirun(3, *raffm_mpi_command("doctor", f"output={tmp_path}"), options=("--with-ft", "ulfm"))
    found = lines(done.stdout)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(TOPICS) and list(found) == TOPICS
    assert "3 ranks on 1 host" in found["MPI"][1]
    assert found["launcher"] == ("ok", "mpirun started 3, and MPI joined them")
    assert found["failures"][0] == found["PMIx"][0] == found["log"][0] == found["large counts"][0] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_warnings_say_what_to_do_and_are_no_failure(mpirun, raffm_mpi_command, lines, tmp_path):
    env = {"HDF5_USE_FILE_LOCKING": "FALSE", "MPI4PY_RC_THREADS": "0"}
    done = mpirun(3, *raffm_mpi_command("doctor", f"output={tmp_path}", "compute.threads_per_group=999"), env=env)
    found = lines(done.stdout)
    assert done.returncode == 0, done.stderr
    warned = {topic for topic, (level, _) in found.items() if level == "warn"}
    assert warned == {"thread level", "failures", "cores", "log"}
    assert found["failures"][1].endswith("; do: add --with-ft ulfm to mpirun to survive it")
    assert "for 999 threads; do: compute.threads_per_group=" in found["cores"][1]
    assert "HDF5_USE_FILE_LOCKING=FALSE" in found["log"][1]


def test_a_full_disk_fails_on_all_ranks_without_a_crash(mpirun, raffm_mpi_command, lines, full_disk):
    done = mpirun(2, *raffm_mpi_command("doctor", f"output={full_disk / 'run'}"))
    found = lines(done.stdout)
    assert done.returncode == 1
    assert found["space"][0] in ("fail", "warn") and "B free in" in found["space"][1]
    assert found["log"][0] == "fail" and "No space left on device" in found["log"][1]
    assert "Traceback" not in done.stderr and "signal" not in done.stderr
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


def test_a_launcher_that_the_library_does_not_know_fails_in_one_table(alone, lines):
    first = alone(PMI_SIZE="2", PMI_RANK="0")
    found = lines(first.stdout)
    assert first.returncode == 1
    assert found["launcher"][0] == found["PMIx"][0] == "fail"
    assert "a PMI launcher started 2 processes, but each is alone" in found["launcher"][1]
    assert "bin/mpirun" in found["launcher"][1]
    second = alone(PMI_SIZE="2", PMI_RANK="1")
    assert (second.returncode, second.stdout, second.stderr) == (1, "", "")


def test_without_an_mpi_library_one_process_is_warned_and_the_rest_is_looked_at(alone, lines, tmp_path):
    done = alone(f"output={tmp_path}", MPI4PY_LIBMPI=str(tmp_path / "libmpi.so"))
    found = lines(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["MPI"][0] == "warn" and "no MPI library can be loaded" in found["MPI"][1]
    assert "one process needs none; do: for a run on several ranks install one" in found["MPI"][1]
    assert found["versions"][0] == found["log"][0] == "ok" and "launcher" not in found
    assert "Traceback" not in done.stderr


def test_ranks_without_an_mpi_library_fail_in_one_table(mpirun, raffm_mpi_command, lines, tmp_path):
    command = raffm_mpi_command("doctor", f"output={tmp_path}")
    done = mpirun(2, *command, env={"MPI4PY_LIBMPI": str(tmp_path / "libmpi.so")})
    assert done.returncode == 1
    assert done.stdout.count("fail  MPI           no MPI library can be loaded") == 1
    assert lines(done.stdout)["versions"][0] == "ok"
    assert "Traceback" not in done.stderr


def test_a_detector_without_its_thread_fails_in_one_table(mpirun, raffm_mpi_command, lines):
    options = ("--with-ft", "ulfm", "--mca", "mpi_ft_detector", "true")
    done = mpirun(2, *raffm_mpi_command("doctor"), options=options)
    assert done.returncode == 1
    assert done.stdout.count("fail  MPI") == 1
    assert "do: add --mca mpi_ft_detector_thread true" in lines(done.stdout)["MPI"][1]


def test_a_config_is_looked_at_with_its_overrides(alone, lines, tmp_path):
    demo = Path(__file__).parents[2] / "configs" / "demo.yaml"
    done = alone(demo, f"output={tmp_path}", "data.path=some/data", "compute.device=cuda")
    found = lines(done.stdout)
    assert done.returncode == 1
    assert found["hub"][0] == "fail" and "lacks some/data" in found["hub"][1]
    assert found["GPUs"][0] == "fail"
    assert found["space"][0] == "ok" and "a run keeps about 2.55 MB" in found["space"][1]


def test_a_model_that_cannot_be_built_fails_by_its_mistake(alone, lines, tmp_path):
    found = lines(alone(f"output={tmp_path}", "model={family: mamba}").stdout)
    assert found["space"][0] == "fail" and "model family 'mamba' has no table" in found["space"][1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.yaml"], "config 'nowhere.yaml' does not exist"),
        (["compute.thread_per_group=1"], "overrides: compute.thread_per_group: unknown key, did you mean"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(mpirun, raffm_mpi_command, arguments, sentence):
    done = mpirun(2, *raffm_mpi_command("doctor", *arguments))
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("raffm-mpi: ")]
    assert len(said) == 1 and said[0].startswith(f"raffm-mpi: {sentence}")
    assert "Traceback" not in done.stderr and done.stdout == ""
