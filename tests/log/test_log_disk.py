"""A full or lost disk: the log says so in one sentence, loses nothing, and goes on when there is space."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from raffm_mpi.log import LogNotWritten, RunLog, check_log, open_run
from raffm_mpi.log.commit import Commit
from raffm_mpi.log.file import LogFile, _stand_in
from raffm_mpi.log.schema import TABLES
from support.written_logs import (
    EVALUATED,
    PARTITION,
    SHA256,
    append_round,
    assert_whole_rounds,
    create,
    flip_bit,
    read_everything,
    rows_of,
    start_writer,
    used_bytes,
    write_rounds,
    write_whole,
)

NO_SPACE = "No space left on device"
NUM_ROUNDS = 6


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB in memory."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root mounts a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode()}")
    yield disk
    subprocess.run(["umount", "-l", disk], capture_output=True)


def make_space(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


def assert_equal_logs(one: Path, other: Path) -> None:
    with open_run(one) as run, open_run(other) as undisturbed:
        assert run.status == undisturbed.status
        for name in TABLES:
            pd.testing.assert_frame_equal(getattr(run, name), getattr(undisturbed, name))


def assert_well(path: Path, num_rounds: int, undisturbed: Path) -> None:
    """The log is whole, and holds what a log holds that no disk disturbed."""
    assert check_log(path) == []
    write_whole(undisturbed, num_rounds)
    assert_equal_logs(path, undisturbed)


def test_a_full_disk_costs_no_row_and_no_reader_notices(small_disk, tmp_path):
    num_rounds = 70
    with start_writer(small_disk, num_rounds) as writer:
        told = []
        while not (line := writer.stdout.readline()).startswith("full"):
            told.append(line)
        assert line == f"full: '{small_disk}/run.h5' cannot be written: {NO_SPACE}\n"
        with open_run(small_disk) as run:
            assert 0 <= assert_whole_rounds(run) - len(told) <= 1, "the evaluation may be what did not fit"
        for _ in range(3):  # it is still full
            writer.stdin.write("again\n")
            writer.stdin.flush()
            assert NO_SPACE in writer.stdout.readline()
            read_everything(small_disk)
        make_space(small_disk)
        out, err = writer.communicate("now\n" * 9)
    assert (writer.returncode, err) == (0, "")
    assert out.split()[-1] == str(num_rounds - 1)
    assert_well(small_disk, num_rounds, tmp_path / "undisturbed")
    assert not (small_disk / ".new.run.h5").exists()


def test_a_caller_that_gives_up_on_a_full_disk_leaves_a_log_and_no_crash(small_disk):
    with start_writer(small_disk, 10**6) as writer:
        out, err = writer.communicate("")  # nobody makes space
    assert (writer.returncode, err) == (1, "nobody makes space\n")
    with open_run(small_disk) as run:
        assert assert_whole_rounds(run) >= len(re.findall(r"\d+\n", out)) > 10
        assert run.status == "running"


def test_a_full_disk_leaves_no_half_log(small_disk):
    (small_disk / "full").write_bytes(bytes((1 << 20) - 50_000))
    with pytest.raises(LogNotWritten, match=NO_SPACE):
        create(small_disk)
    assert os.listdir(small_disk) == ["full"]
    (small_disk / "full").unlink()
    create(small_disk).finish("finished")


def test_a_log_that_cannot_be_resumed_for_lack_of_space_stays_as_it_is(small_disk):
    log = create(small_disk)
    write_rounds(log, 0, 8)
    log.finish("interrupted")
    space = (1 << 20) - (small_disk / "run.h5").stat().st_size
    (small_disk / "full").write_bytes(bytes(space // 2))
    with pytest.raises(LogNotWritten, match=NO_SPACE):
        RunLog.reopen(small_disk, num_rounds=8)
    with open_run(small_disk) as run:
        assert (assert_whole_rounds(run), run.status) == (8, "interrupted")


def appended(path: Path) -> RunLog:
    """A log with two rounds committed and one that waits."""
    log = create(path, config="federation: {num_rounds: 3}\n")
    log.append("partition", **PARTITION)
    write_rounds(log, 0, 2)
    append_round(log, 2)
    return log


def finished(log: RunLog) -> None:
    for name in EVALUATED:
        log.append(name, **rows_of(name, 2))
    log.finish("finished", SHA256)


def lose_disk(file: LogFile) -> None:
    """From now on the file can be read and not written."""
    handle = file._file.id.get_vfd_handle()
    read_only = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY)
    os.dup2(read_only, handle)
    os.close(read_only)


@pytest.fixture
def lost_before_the_record(monkeypatch):
    """Each disk is lost when a commit's rows are written and its record is not."""
    commit, followed_by = LogFile.commit, Commit.followed_by
    files = []

    def note_file(file, *arguments):
        files.append(file)
        return commit(file, *arguments)

    def lose_first(*arguments):
        lose_disk(files[-1])
        return followed_by(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LogFile, "commit", note_file)
        patch.setattr(Commit, "followed_by", lose_first)
        yield patch


def test_a_first_commit_without_a_record_is_no_log(tmp_path, lost_before_the_record):
    with pytest.raises(LogNotWritten, match="Bad file descriptor"):
        create(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_disk_lost_between_the_rows_and_their_record_costs_no_row(tmp_path, request):
    log = appended(tmp_path / "here")
    lost = request.getfixturevalue("lost_before_the_record")
    with pytest.raises(LogNotWritten, match="Bad file descriptor"):
        log.commit()
    lost.undo()
    with open_run(tmp_path / "here") as run:
        assert assert_whole_rounds(run) == 2
    finished(log)
    assert_well(tmp_path / "here", 3, tmp_path / "undisturbed")


def test_a_folder_that_goes_and_comes_back_costs_no_row(tmp_path):
    log = appended(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(LogNotWritten, match=r"run\.h5' cannot be written: .*(No such file|does not exist)"):
            log.commit()
    with open_run(tmp_path / "away") as run:
        assert 2 <= assert_whole_rounds(run) <= 3
    (tmp_path / "away").rename(tmp_path / "here")
    log.commit()
    read_everything(tmp_path / "here")
    finished(log)
    assert_well(tmp_path / "here", 3, tmp_path / "undisturbed")


def test_a_lost_file_system_is_noticed(small_disk):
    log = appended(small_disk)
    subprocess.run(["umount", "-l", small_disk], check=True)
    with pytest.raises(LogNotWritten, match="No such file or directory"):
        log.commit()
    with pytest.raises(LogNotWritten, match="does not exist"):
        log.finish("failed")
    log.abandon()


@pytest.mark.parametrize("other", ["another run's log", "damaged"])
def test_a_log_goes_on_from_its_own_rows_only(tmp_path, other):
    log = appended(tmp_path)
    path, copy = tmp_path / "run.h5", tmp_path / "copy.h5"
    if other == "damaged":
        shutil.copy(path, copy)
        flip_bit(copy, *used_bytes(path, "clients/mean_loss"))
    else:
        stranger = create(copy)
        write_rounds(stranger, 4, 9)
        stranger.finish("interrupted")
    os.replace(copy, path)
    content = path.read_bytes()
    with pytest.raises(LogNotWritten, match="another file has taken its place"):
        log.commit()
    with pytest.raises(LogNotWritten, match="no longer what was written"):
        log.commit()
    log.abandon()
    assert path.read_bytes() == content


def test_a_run_that_cannot_be_finished_can_be_finished_later(tmp_path):
    log = appended(tmp_path / "here")
    log.commit()
    close = log._file.close

    def fail(*arguments):
        lose_disk(log._file)
        close(*arguments)

    log._file.close = fail
    with pytest.raises(LogNotWritten, match="Bad file descriptor"):
        finished(log)
    read_everything(tmp_path / "here")
    log.finish("finished", SHA256)
    assert_well(tmp_path / "here", 3, tmp_path / "undisturbed")


def test_an_abandoned_log_shows_what_was_committed(tmp_path):
    log = appended(tmp_path)
    log.abandon()
    log.abandon()
    with open_run(tmp_path) as run:
        assert (assert_whole_rounds(run), run.status) == (2, "running")
    with pytest.raises(AssertionError, match="closed"):
        log.commit()


def test_an_interrupted_commit_may_be_repeated(tmp_path, monkeypatch):
    log = appended(tmp_path)
    for name in ("sync", "check_place"):
        with monkeypatch.context() as patch:
            patch.setattr(LogFile, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                log.commit()
    finished(log)
    assert_well(tmp_path, 3, tmp_path / "undisturbed")


def test_a_reader_in_the_writers_process_keeps_its_rows_when_the_disk_fails(tmp_path):
    log = appended(tmp_path / "here")
    run = open_run(tmp_path / "here")
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(LogNotWritten):
        log.commit()
    assert assert_whole_rounds(run) == 2


# Whatever write or sync fails, and for how long: strace lets these calls of the log's file fail, counted from 1.
FAILURES = [
    *(f"pwrite64:error=ENOSPC:when={first}..{first + first % 7}" for first in range(2, 400, 83)),
    *(f"pwrite64:error=EIO:when={first}..{first + first % 7}" for first in range(37, 400, 83)),
    "fsync:error=EIO:when=2..3",
    "fsync:error=ENOSPC:when=1",
    "ftruncate:error=EIO:when=1..2",
]


def test_what_stands_in_for_an_unreadable_file_cannot_be_read_as_zeros(tmp_path):
    unreadable = os.open(tmp_path, os.O_PATH)
    stand_in = _stand_in(unreadable)
    assert os.pwrite(stand_in, b"dropped", 4096) == 7
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pread(stand_in, 8, 0)
    os.close(unreadable)
    os.close(stand_in)


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace lets a chosen system call fail")


def failing(disk: Path, calls: str, failure: str) -> list[str]:
    """A command that runs another one and lets system calls on the log in that folder fail."""
    paths = [part for name in ("run.h5", ".new.run.h5") for part in ("-P", str(disk / name))]
    return ["strace", "-f", "-o", "/dev/null", *paths, "-e", f"trace={calls}", "-e", f"inject={calls}:{failure}"]


@needs_strace
@pytest.mark.parametrize("first", [220, 300])
def test_a_disk_that_is_lost_for_good_hangs_and_crashes_nothing(tmp_path, first):
    calls = "pwrite64,pread64,read,fsync,ftruncate"
    with start_writer(tmp_path, NUM_ROUNDS, before=failing(tmp_path, calls, f"error=EIO:when={first}+")) as writer:
        out, err = writer.communicate("again\n" * 3)
    assert (writer.returncode, err) == (1, "nobody makes space\n")
    assert out.count("cannot be written: Input/output error\n") == 4
    read_everything(tmp_path)


@needs_strace
@pytest.mark.parametrize("failure", FAILURES)
def test_a_call_that_fails_anywhere_costs_no_row(tmp_path, failure):
    disk = tmp_path / "disk"
    disk.mkdir()
    calls, failure = failure.split(":", 1)
    with start_writer(disk, NUM_ROUNDS, before=failing(disk, calls, failure)) as writer:
        told, num_failures = [], 0
        while line := writer.stdout.readline():
            if line.startswith("full"):
                assert re.search("cannot be written: (No space left on device|Input/output error)$", line), line
                num_failures += 1
                if (disk / "run.h5").exists():
                    with open_run(disk) as run:
                        assert assert_whole_rounds(run) >= len(told)
                writer.stdin.write("again\n")
                writer.stdin.flush()
            else:
                told.append(line)
        err = writer.stderr.read()
    assert (writer.returncode, err) == (0, "")
    assert num_failures
    assert_well(disk, NUM_ROUNDS, tmp_path / "undisturbed")
