"""A full disk: the run says so, keeps its state, tries again, and stops with its last committed round intact."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from raffm_mpi.federation.verify import verify
from raffm_mpi.log import open_run
from support.waiting import TIMEOUT_S
from support.warm_server import warm_python

DISK_BYTES = 1 << 20
MISSING_BYTES = 150_000  # what the run cannot have of the space that it takes


@pytest.fixture
def disk(tmp_path, undisturbed):
    """A file system of 1 MB, with a file in it that leaves the run too little."""
    needed = sum(path.stat().st_size for path in undisturbed.rglob("*"))
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    (folder / "filler").write_bytes(b"0" * (DISK_BYTES - needed + MISSING_BYTES))
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def start(config: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [*warm_python(), "-m", "raffm_mpi", "run", str(config), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def test_a_run_on_a_full_disk_stops_and_goes_on_when_there_is_space(config, resume, assert_undisturbed, disk):
    output = disk / "run"
    process = start(config, f"output={output}", "reliability.disk_patience_s=2")
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, stderr
    assert "No space left on device; trying again for 2 s" in stderr
    assert "No space left on device (tried for 2 s); --resume goes on" in stderr
    assert "Traceback" not in stderr
    with open_run(output) as run:
        assert 0 < len(run.rounds) < 6
    assert verify(output) == []
    (disk / "filler").unlink()
    result = resume(output)
    assert result.returncode == 0, result.stderr
    assert_undisturbed(output)


def test_a_run_waits_for_space_and_goes_on_by_itself(config, assert_undisturbed, disk):
    process = start(config, f"output={disk / 'run'}", "reliability.disk_patience_s=1000")
    said = []

    def make_space_when_it_asks() -> None:
        for line in process.stderr:
            said.append(line)
            if "trying again for 1000 s" in line:
                (disk / "filler").unlink(missing_ok=True)

    watcher = threading.Thread(target=make_space_when_it_asks)
    watcher.start()
    process.stdout.read()
    assert process.wait(timeout=TIMEOUT_S) == 0, "".join(said)
    watcher.join()
    assert any("written after" in line for line in said)
    assert_undisturbed(disk / "run")
