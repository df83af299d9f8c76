"""Files and folders appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from raffm_mpi import files
from raffm_mpi.files import file_sha256, nearest_existing, replacing, write_text


def test_what_is_written_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "made" / "report.html"
    for text in ("first", "second, which is longer", "third"):
        write_text(path, text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_error_on_the_way_leaves_what_was_there_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("whole")

    def fail_halfway() -> None:
        with replacing(path) as new:
            new.write_text("ha")
            raise error

    with pytest.raises(type(error)):
        fail_halfway()
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_nobody_sees_a_file_before_it_is_whole(tmp_path):
    path = tmp_path / "model.bin"
    with replacing(path) as new:
        new.write_bytes(b"half")
        assert not path.exists()
        new.write_bytes(b"half and half")
    assert path.read_bytes() == b"half and half"


@pytest.mark.parametrize("durable", [False, True])
def test_a_folder_replaces_a_folder_and_what_a_kill_has_left_is_cleared(tmp_path, durable):
    path = tmp_path / "checkpoint"
    for name in ("old", "new"):
        left = tmp_path / ".new.checkpoint"
        left.mkdir()
        (left / "of a kill").touch()
        with replacing(path, durable=durable) as new:
            new.mkdir()
            (new / name).touch()
        assert [inner.name for inner in path.iterdir()] == [name]
        assert list(tmp_path.iterdir()) == [path]


def test_a_durable_write_syncs_every_file_before_the_rename_and_the_folder_around_after_it(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(files, "_sync", lambda path: done.append(path.name))
    monkeypatch.setattr(os, "replace", lambda one, other: done.append("renamed"))
    with replacing(tmp_path / "checkpoint", durable=True) as new:
        new.mkdir()
        (new / "model").touch()
        (new / "state").touch()
    assert sorted(done[:2]) == ["model", "state"]
    assert done[2:] == [".new.checkpoint", "renamed", tmp_path.name]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_fingerprint_is_the_sha_256_of_all_bytes(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_nearest_existing_place_is_the_path_itself_or_above_it(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert nearest_existing(tmp_path) == tmp_path
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert nearest_existing(tmp_path / "file" / "below") == tmp_path / "file"
    monkeypatch.chdir(tmp_path)
    assert nearest_existing(Path("a/b")) == tmp_path
