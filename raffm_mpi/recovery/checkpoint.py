"""Checkpoints of a run: safetensors and JSON, whole or not at all; no pickle is ever read.

``checkpoints/round_000012/`` is the state after that round: ``model.safetensors``, ``optimizer.safetensors`` where the
server has an optimizer, and ``state.json``, which has the SHA-256 of every part and of itself.
``checkpoints/partial/`` beside it is what a stopped run had of the round after.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from raffm_mpi.errors import UserMistake
from raffm_mpi.learning.model import sha256
from raffm_mpi.log.reader import sentence

FOLDER = "checkpoints"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
SUMS, REPORTS = "sums.safetensors", "reports.safetensors"
_FORMAT = "raffm_mpi checkpoint"
_VERSION = 1
_PARTIAL = "partial"
_REPORTS = "reports"
_BLOCK_BYTES = 1 << 20


class DamagedCheckpoint(UserMistake):
    """A checkpoint that cannot be used; the message says which part and why."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a verified ``state``: run_id, round, parts (SHA-256 of each), and what the caller added."""

    folder: Path
    state: Mapping[str, Any]

    @property
    def round(self) -> int:
        """The last committed round in it."""
        return int(self.state["round"])

    @property
    def num_bytes(self) -> int:
        """The size of its parts."""
        return sum((self.folder / part).stat().st_size for part in self.state["parts"])

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of a part, compared with its SHA-256; raises DamagedCheckpoint."""
        path = self.folder / part
        if _sha256_of(path) != self.state["parts"].get(part):
            raise DamagedCheckpoint(f"'{path}' does not have the SHA-256 that '{STATE}' gives")
        try:
            return {name: torch.from_numpy(array) for name, array in load_file(path).items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise DamagedCheckpoint(f"'{path}' is no safetensors file: {sentence(error)}") from None


@dataclass(frozen=True)
class Partial:
    """What a stopped run had of a round: sums (int64) by parameter, and reports as bytes."""

    checkpoint: Checkpoint
    sums: Mapping[str, Tensor]
    reports: Tensor


def save(
    output: Path, round: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], kept: int
) -> Checkpoint:
    """Write the state after a round, and remove all but the ``kept`` newest; what is there stays if that fails.

    ``parts`` are the tensors of each file; one of them is the model.
    """
    fields = {**state, "round": round, "model_sha256": sha256(parts[MODEL])}
    checkpoint = _write(output / FOLDER / f"round_{round:06d}", parts, fields)
    for old in _folders(output)[kept:]:
        shutil.rmtree(old)
    return checkpoint


def save_partial(output: Path, sums: Mapping[str, Tensor], reports: Tensor, state: Mapping[str, Any]) -> Checkpoint:
    """Write what a round has so far, for :func:`find_partial`."""
    return _write(output / FOLDER / _PARTIAL, {SUMS: sums, REPORTS: {_REPORTS: reports}}, state)


def find(output: Path) -> tuple[Checkpoint | None, dict[str, dict[str, Tensor]], list[str]]:
    """The newest checkpoint that is whole, its parts, and a sentence for each newer one that is not.

    None, and no sentence, where there is none. Raises DamagedCheckpoint where all are damaged.
    """
    flaws: list[str] = []
    for folder in _folders(output):
        try:
            checkpoint = _open(folder)
            return checkpoint, {part: checkpoint.tensors(part) for part in checkpoint.state["parts"]}, flaws
        except DamagedCheckpoint as error:
            flaws.append(str(error))
    if flaws:
        raise DamagedCheckpoint("no checkpoint is whole: " + "; ".join(flaws))
    return None, {}, []


def find_partial(output: Path, base: Checkpoint | None) -> Partial | None:
    """What a stopped run had of the round after ``base`` (of round 0 for None), if there is such a thing.

    Raises DamagedCheckpoint for one that is not whole.
    """
    folder = output / FOLDER / _PARTIAL
    if not folder.is_dir():
        return None
    partial = _open(folder)
    if partial.state["base_sha256"] != (base.state["model_sha256"] if base else None):
        return None
    return Partial(partial, partial.tensors(SUMS), partial.tensors(REPORTS)[_REPORTS])


def forget_partial(output: Path) -> None:
    """Remove what was kept of a round that has been committed since."""
    shutil.rmtree(output / FOLDER / _PARTIAL, ignore_errors=True)


def found(output: Path) -> list[Checkpoint]:
    """Every checkpoint whose state can be read, newest first."""
    return [checkpoint for folder in _folders(output) if (checkpoint := _open_if_whole(folder))]


def check(output: Path) -> list[str]:
    """A sentence for everything that is wrong with the checkpoints of a run."""
    flaws = []
    folders = [*_folders(output), *(path for path in [output / FOLDER / _PARTIAL] if path.is_dir())]
    for folder in folders:
        try:
            checkpoint = _open(folder)
            for part in checkpoint.state["parts"]:
                tensors = checkpoint.tensors(part)
                if part == MODEL and sha256(tensors) != checkpoint.state["model_sha256"]:
                    flaws.append(f"'{folder / MODEL}' does not hold the model that '{STATE}' names")
        except DamagedCheckpoint as error:
            flaws.append(str(error))
    return flaws


def _folders(output: Path) -> list[Path]:
    """The checkpoints after rounds, newest first; a temporary one has another name."""
    found = (output / FOLDER).glob("round_[0-9]*")
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("round_")), reverse=True)


def _write(folder: Path, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Checkpoint:
    """Write a folder under a temporary name, make it last, and give it its name."""
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        digests = {}
        for name, tensors in parts.items():
            _save_tensors(temporary / name, tensors)
            digests[name] = _sha256_of(temporary / name)
        fields = {"format": _FORMAT, "version": _VERSION, **state, "parts": digests}
        text = json.dumps({**fields, "sha256": _digest(fields)}, indent=1)
        (temporary / STATE).write_text(text, encoding="utf-8")
        for path in [*temporary.iterdir(), temporary]:
            _sync(path)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the space
        raise
    return Checkpoint(folder, fields)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file({name: tensor.numpy() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # its way to say what the disk said
        raise OSError(str(error)) from error


def _open(folder: Path) -> Checkpoint:
    path = folder / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DamagedCheckpoint(f"'{path}' cannot be read: {error.strerror}") from None
    except ValueError:
        raise DamagedCheckpoint(f"'{path}' is not JSON") from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise DamagedCheckpoint(f"'{path}' is not the state of a {_FORMAT}")
    if state.pop("sha256", None) != _digest(state):
        raise DamagedCheckpoint(f"'{path}' does not have its own SHA-256")
    if state["version"] > _VERSION:
        raise DamagedCheckpoint(f"'{path}' has version {state['version']}; this raffm_mpi reads up to {_VERSION}")
    return Checkpoint(folder, state)


def _open_if_whole(folder: Path) -> Checkpoint | None:
    try:
        return _open(folder)
    except DamagedCheckpoint:
        return None


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise DamagedCheckpoint(f"'{path}' cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
