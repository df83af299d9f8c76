"""The cache of prepared examples: filled once, whole or not at all."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from made_sets import (
    GREY,
    WORDS,
    prepare,
    settings_for,
    write,
    write_images,
    write_texts,
    write_tokenizer,
)

from raffm_mpi.data import TextInput
from raffm_mpi.data import cache as cache_room
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks import inspect
from support.waiting import TIMEOUT_S


def test_info_is_small_and_can_be_sent(tmp_path: Path) -> None:
    info = inspect(settings_for(write_images(tmp_path / "set"), tmp_path))
    assert pickle.loads(pickle.dumps(info)) == info
    assert len(pickle.dumps(info)) < 2000


def test_inspect_decodes_no_example(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"image": [b"broken"], "label": ["a"]}, image=datasets.Image())
    assert inspect(settings_for(folder, tmp_path)).columns.one("image") == "image"


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_examples_are_prepared_once(tmp_path: Path) -> None:
    settings = settings_for("digits", tmp_path)
    info = inspect(settings)
    folder = prepare(info, settings, GREY, 0)
    before = snapshot(tmp_path / "cache")
    assert prepare(inspect(settings), settings, GREY, 0) == folder
    assert snapshot(tmp_path / "cache") == before


def test_seeds_share_the_stored_examples(tmp_path: Path) -> None:
    settings = settings_for("digits", tmp_path)
    folders = [prepare(inspect(settings), settings, GREY, seed) for seed in (0, 1)]
    assert folders[0] != folders[1] and folders[0].parent == folders[1].parent
    assert sum(path.stat().st_size for path in folders[1].iterdir()) < 5000


def test_whatever_changes_the_examples_changes_the_folder(tmp_path: Path) -> None:
    plain = {"validation_fraction": 0}
    texts, tokenizer = write_texts(tmp_path / "set"), write_tokenizer(tmp_path / "tok")
    settings = settings_for(texts, tmp_path, **plain)
    folders = [prepare(inspect(settings), settings, TextInput(tokenizer, length), 0) for length in (4, 5)]
    write_tokenizer(tmp_path / "tok", [*WORDS[:4], *WORDS[:3:-1]])
    folders.append(prepare(inspect(settings), settings, TextInput(tokenizer, 4), 0))
    write_texts(texts, sentence=["dull film"] * 20, label=["good", "bad"] * 10)
    folders.append(prepare(inspect(settings), settings, TextInput(tokenizer, 4), 0))
    by_label = settings_for(texts, tmp_path, **plain, partition={"kind": "by_column", "column": "label"})
    folders.append(prepare(inspect(by_label), by_label, TextInput(tokenizer, 4), 0))
    assert len(set(folders)) == 5


def test_two_processes_share_one_cache(tmp_path: Path) -> None:
    script = (
        "import sys; from raffm_mpi.config import DataSettings; from raffm_mpi.data import *\n"
        "from raffm_mpi.tasks import inspect, task_of\n"
        f"settings = DataSettings(path='digits', cache={str(tmp_path / 'cache')!r}); info = inspect(settings)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "task = task_of(info.task); folder = prepare(info, task, settings, ImageInput(1, 64, 64, (0.5,), (0.5,)), 0)\n"
        "batch = open_data(folder, task).train.batch(__import__('numpy').arange(99))\n"
        "print(folder, float(batch['pixel_values'].sum()))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(tmp_path)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    processes = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 2
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and answers[0] == answers[1]
    examples = list((tmp_path / "cache").iterdir())
    assert len(examples) == 1 and not [path for path in examples[0].iterdir() if path.name.startswith(".")]


def test_a_lost_race_uses_the_winner(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "file").write_text("late")
        (tmp_path / "it").mkdir()
        (tmp_path / "it" / "file").write_text("first")

    assert cache_room._build_once(tmp_path / "it", build) == tmp_path / "it"
    assert [path.name for path in tmp_path.iterdir()] == ["it"] and (tmp_path / "it" / "file").read_text() == "first"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        cache_room._build_once(tmp_path / "it", build)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(UserMistake, match=r"data.cache: '.*' cannot be filled: .*No space left on device"):
        cache_room._build_once(tmp_path / "it", build)


def test_importing_the_room_is_cheap() -> None:
    script = (
        "import sys, raffm_mpi.tasks; print([m for m in ('datasets', 'transformers', 'sklearn') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert shown.stdout == "[]\n"
