"""What the doctor tries rather than asks, whole and broken for real: environment, locks, disks, hub, transfers."""

from __future__ import annotations

import errno
import fcntl
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from raffm_mpi.doctor import folder as folders
from raffm_mpi.doctor.examine import check_transfer, needed_bytes, try_transfer
from raffm_mpi.doctor.facts import Facts
from raffm_mpi.doctor.gpus import look_for_gpus
from raffm_mpi.doctor.intent import load_intent
from raffm_mpi.doctor.sources import look_for_sources
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.launcher import Launcher, srun_plugins
from raffm_mpi.exchange.lone import LoneRank
from raffm_mpi.exchange.openmpi import finds_failed_nodes
from raffm_mpi.exchange.probe import apart_from_the_job, echo
from raffm_mpi.log.file import LogFile
from support.waiting import TIMEOUT_S


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, Launcher()),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Launcher(allocated=4)),  # a batch script
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "PMIX_NAMESPACE": "x", "PMIX_VERSION": "4.2"},
            Launcher("srun", 2, 1, "4.2"),
        ),
        (
            {
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_RANK": "3",
                "SLURM_STEP_NUM_TASKS": "1",
                "SLURM_PROCID": "0",
            },
            Launcher("mpirun", 8, 3),
        ),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, Launcher("a PMI launcher", 2, 1)),
        ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"}, Launcher("mpirun_rsh", 2, 1)),
        ({"PMIX_NAMESPACE": "x", "PMIX_RANK": "3"}, Launcher("a PMIx launcher", 0, 3, "unknown")),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Launcher(allocated=4)),  # a shell
    ],
)
def test_a_launcher_is_known_by_what_it_leaves_in_the_environment(environment, launcher):
    assert Launcher.of(environment) == launcher


def test_a_process_apart_from_the_job_keeps_the_way_that_mpi_moves_data():
    job = {"PATH": "/bin", "PMIX_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "OMPI_MCA_pml": "ucx", "OMPI_MCA_ess": "pmi"}
    assert apart_from_the_job(job) == {"PATH": "/bin", "OMPI_MCA_pml": "ucx"}


def test_sruns_ways_to_start_mpi_are_read_and_without_srun_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert srun_plugins() == []
    srun = tmp_path / "srun"
    srun.write_text(
        "#!/bin/sh\necho 'MPI plugin types are...' >&2\necho '\tnone\n\tpmix\nspecific pmix plugin versions \
available: pmix_v4' >&2\n"
    )
    srun.chmod(0o755)
    assert srun_plugins() == ["none", "pmix", "pmix_v4"]
    srun.write_text("#!/bin/sh\necho 'srun: fatal: no configuration source' >&2; exit 1\n")
    assert srun_plugins() == []


def test_the_detector_of_lost_nodes_is_known_by_mpiruns_option(monkeypatch):
    monkeypatch.delenv("OMPI_MCA_mpi_ft_detector", raising=False)
    assert not finds_failed_nodes()
    monkeypatch.setenv("OMPI_MCA_mpi_ft_detector", "true")
    assert finds_failed_nodes()


def test_facts_survive_the_journey_and_fit_in_one_message(well):
    facts = well(2, cpus=tuple(range(512)))[1]
    assert Facts.from_json(facts.to_json()) == facts
    assert len(facts.to_json()) < 8192


class OneOfTwo(LoneRank):
    """One of two ranks, as far as it tells; nothing travels."""

    def __init__(self, rank: int, host: str) -> None:
        super().__init__(host)
        self.rank, self.members = rank, [0, 1]


class Corrupting(OneOfTwo):
    """Rank 1, to whom the broadcast model comes with one number wrong."""

    wrong: int

    def broadcast(self, buffer: np.ndarray) -> None:
        buffer[:] = np.arange(len(buffer)) * 2654435761
        buffer[self.wrong] += 1


@pytest.mark.parametrize("place", [0, 131072, -1])
def test_one_wrong_number_anywhere_is_found(place):
    ranks = Corrupting(1, "n2")
    ranks.wrong = place
    wrong = try_transfer(ranks)
    assert wrong == ["rank 1 on n2"]
    finding = check_transfer(2, wrong)
    assert finding.level == "fail" and "rank 1 on n2" in finding.text


def test_a_sum_that_comes_out_wrong_is_found():
    assert try_transfer(OneOfTwo(0, "n1")) == ["rank 0 on n1"]  # the sums lack the other rank's part
    assert try_transfer(LoneRank()) == []
    assert check_transfer(1, []).level == check_transfer(2, []).level == "ok"


def test_a_buffer_travels_through_real_mpi():
    assert echo("cpu") == "right"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "it ended with signal 11"),
        ("print('wrong')", "wrong"),
        ("print('right'); raise SystemExit(3)", "it ended with status 3: no reason given"),
        ("raise SystemExit('MPI_ERR_BUFFER')", "it ended with status 1: MPI_ERR_BUFFER"),
        ("pass", "it ended with status 0: no reason given"),
    ],
)
def test_a_crash_in_a_transfer_of_gpu_memory_is_a_finding(program, said):
    assert echo("cuda:0", (sys.executable, "-c", program)) == said


def test_gpus_are_those_that_torch_sees_and_each_rank_takes_the_next(monkeypatch):
    import torch

    from raffm_mpi.config import ComputeSettings
    from raffm_mpi.doctor import gpus

    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(["a", "b"] if pattern == "nvidia[0-9]*" else []))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert look_for_gpus(ComputeSettings(), 1, True) == gpus.GPUs(2, visible=None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpus, "_name", lambda number: f"H100 {number}")
    monkeypatch.setattr(gpus, "echo", lambda device: f"tried {device}")
    found = look_for_gpus(ComputeSettings(), 3, True)
    assert (found.seen, found.taken, found.echo) == (("H100 0", "H100 1"), "H100 1", "tried cuda:1")
    assert look_for_gpus(ComputeSettings(device="cpu"), 3, True).seen == ()


def test_a_lock_is_told_from_no_lock_and_from_no_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    assert folders.try_lock(path) == folders.MISSING
    path.touch()
    assert folders.try_lock(path) == folders.FREE
    with path.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert folders.try_lock(path) == folders.HELD

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert folders.try_lock(path) == folders.NO_LOCKS


def test_a_file_is_written_locked_and_followed_and_nothing_is_left(tmp_path):
    found = folders.try_folder(tmp_path, True, LoneRank())
    assert (found.error, found.lock, found.followed) == ("", folders.HELD, True)
    assert list(tmp_path.iterdir()) == []


def test_locking_that_is_turned_off_is_seen(tmp_path):
    found = folders.try_folder(tmp_path, False, LoneRank())
    assert (found.error, found.lock, found.followed) == ("", folders.FREE, True)


def test_a_second_process_that_cannot_read_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = folders.try_folder(tmp_path, True, LoneRank())
    assert (found.error, found.followed) == ("", False)


def test_a_folder_that_cannot_be_written_is_an_error():
    found = folders.try_folder(Path("/proc"), True, LoneRank())
    assert found.error


def test_a_disk_that_fails_under_hdf5_is_an_error_and_gets_not_another_byte(tmp_path, monkeypatch):
    let_go, closed = LogFile.let_go, []

    def fail(*_, **__):
        raise OSError("no space left on device")

    def note(log):
        let_go(log)
        closed.append(not log._file)

    monkeypatch.setattr(h5py.File, "create_dataset", fail)
    monkeypatch.setattr(LogFile, "let_go", note)
    found = folders.try_folder(tmp_path, True, LoneRank())
    assert "no space left on device" in found.error
    assert closed == [True]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The libraries' constants: online, an empty cache, and a hub at a port where nobody listens."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return constants


@pytest.fixture
def intent():
    return lambda **model: load_intent(None, [f"model={model}", "data.path=some/data"])


def test_a_hub_that_answers_is_reachable_and_one_that_does_not_is_not(hub, monkeypatch, intent):
    assert look_for_sources(intent(name="some/model")).reachable is False

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert look_for_sources(intent(name="some/model")).reachable is True
        server.shutdown()


def test_what_the_cache_lacks_is_named_and_what_it_has_is_not(hub, tmp_path, monkeypatch, intent):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    found = look_for_sources(intent(name="some/model"))
    assert (found.offline, found.reachable) == (True, None)
    assert found.on_hub == found.not_cached == ("some/data", "some/model")
    (tmp_path / "datasets" / "some___data").mkdir(parents=True)
    revision = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
    revision.mkdir(parents=True)
    (revision / "config.json").write_text("{}")
    references = tmp_path / "hub" / "models--some--model" / "refs"
    references.mkdir()
    (references / "main").write_text("abc")
    found = look_for_sources(intent(name="some/model"))
    assert found.not_cached == () and found.on_hub == ("some/data", "some/model")


def test_folders_are_not_asked_of_the_hub(hub, tmp_path):
    absent = str(tmp_path / "nowhere")
    found = look_for_sources(load_intent(None, [f"model.name={absent}", f"data.path={tmp_path}"]))
    assert (found.absent, found.on_hub, found.reachable) == ((absent,), (), None)


def test_what_a_run_keeps_follows_from_the_model_and_the_checkpoints():
    model = "model={family: vit, config: {image_size: 8, patch_size: 4, hidden_size: 24, num_hidden_layers: 1}}"
    kept = [needed_bytes(load_intent(None, [model, f"reliability.checkpoints_kept={n}"])) for n in (1, 2)]
    none = needed_bytes(load_intent(None, [model, "reliability.checkpoint_every=null"]))
    one = kept[1] - kept[0]
    assert one > 4 * 24 * 3072 and kept[0] == 5 * one and none == 3 * one
    with pytest.raises(UserMistake, match="has no table"):
        needed_bytes(load_intent(None, ["model={family: mamba}"]))


def test_ranks_that_do_not_reach_each_other_are_given_up():
    program = (
        "import time; from raffm_mpi.doctor import meeting; meeting.CONNECT_S = 0.2; "
        "meeting.join = lambda: time.sleep(10**6); meeting.meet()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert done.stdout.startswith("fail  MPI           the ranks did not reach each other within 0 s; do: ")
