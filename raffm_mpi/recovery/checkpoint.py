"""Checkpoints of a run: safetensors and JSON, written whole or not at all; no pickle is ever read.

``checkpoints/round_000012/`` is the state after round 12: ``model.safetensors``, ``optimizer.safetensors`` where the
server has an optimizer, and ``state.json``, which holds the SHA-256 of every part and of itself.
``checkpoints/partial/`` holds the exact sums and the reports of a round in which the run was stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from raffm_mpi.errors import UserMistake, reason, sentence
from raffm_mpi.files import file_sha256, replacing
from raffm_mpi.learning.model import sha256

FOLDER = "checkpoints"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
SUMS, REPORTS = "sums.safetensors", "reports.safetensors"
_FORMAT = "raffm_mpi checkpoint"
_VERSION = 1
_PARTIAL = "partial"
_REPORTS = "reports"


class DamagedCheckpoint(UserMistake):
    """A checkpoint that cannot be used; the message says which part and why."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose ``state`` is verified: format, version, round, parts (SHA-256 of each) and the caller's fields."""

    folder: Path
    state: Mapping[str, Any]

    @property
    def round(self) -> int:
        """The round after which it was written."""
        return int(self.state["round"])

    @property
    def num_bytes(self) -> int:
        """The size of its parts."""
        return sum((self.folder / part).stat().st_size for part in self.state["parts"])

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of a part; raises DamagedCheckpoint where its SHA-256 is another or it cannot be read."""
        path = self.folder / part
        try:
            found = file_sha256(path)
        except OSError as error:
            raise DamagedCheckpoint(f"'{path}' cannot be read: {reason(error)}") from None
        if found != self.state["parts"].get(part):
            raise DamagedCheckpoint(f"'{path}' does not have the SHA-256 that '{STATE}' gives")
        try:
            return {name: torch.from_numpy(array) for name, array in load_file(path).items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise DamagedCheckpoint(f"'{path}' is no safetensors file: {sentence(error)}") from None


@dataclass(frozen=True)
class Partial:
    """What a stopped run had of a round: the exact sums (int64) of each parameter, and the reports as bytes (uint8)."""

    checkpoint: Checkpoint
    sums: Mapping[str, Tensor]
    reports: Tensor


def save(
    output: Path, round_number: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], kept: int
) -> Checkpoint:
    """Write the checkpoint after a round, then remove all but the ``kept`` newest; raises OSError where the disk does.

    ``parts`` are the tensors of each file; one of them is :data:`MODEL`. ``state`` is what JSON takes.
    """
    fields = {**state, "round": round_number, "model_sha256": sha256(parts[MODEL])}
    checkpoint = _write(output / FOLDER / f"round_{round_number:06d}", parts, fields)
    for old in _folders(output)[kept:]:
        shutil.rmtree(old)
    return checkpoint


def save_partial(output: Path, sums: Mapping[str, Tensor], reports: Tensor, state: Mapping[str, Any]) -> Checkpoint:
    """Write the sums and reports of a round that stops, for :func:`find_partial`."""
    return _write(output / FOLDER / _PARTIAL, {SUMS: sums, REPORTS: {_REPORTS: reports}}, state)


def find(output: Path) -> tuple[Checkpoint | None, dict[str, dict[str, Tensor]], list[str]]:
    """The newest checkpoint that is whole, its parts, and a sentence for each newer one that is not.

    Without any checkpoint: None and no sentence. Raises DamagedCheckpoint where all are damaged.
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
    """What a stopped run had of the round after ``base`` (None: of round 0), or None.

    Raises DamagedCheckpoint where it is not whole.
    """
    folder = output / FOLDER / _PARTIAL
    if not folder.is_dir():
        return None
    partial = _open(folder)
    if partial.state["base_sha256"] != (base.state["model_sha256"] if base else None):
        return None
    return Partial(partial, partial.tensors(SUMS), partial.tensors(REPORTS)[_REPORTS])


def forget_partial(output: Path) -> None:
    """Remove what :func:`save_partial` wrote; its round has been committed."""
    shutil.rmtree(output / FOLDER / _PARTIAL, ignore_errors=True)


def found(output: Path) -> list[Checkpoint]:
    """Every checkpoint whose state can be read, newest first."""
    return [checkpoint for folder in _folders(output) if (checkpoint := _open_if_whole(folder))]


def check(output: Path) -> list[str]:
    """A sentence for each checkpoint of a run that is damaged; each file is hashed once."""
    flaws = []
    folders = [*_folders(output), *(path for path in [output / FOLDER / _PARTIAL] if path.is_dir())]
    for folder in folders:
        try:
            checkpoint = _open(folder)
            for part in checkpoint.state["parts"]:
                checkpoint.tensors(part)
        except DamagedCheckpoint as error:
            flaws.append(str(error))
    return flaws


def _folders(output: Path) -> list[Path]:
    """The folders of whole rounds, newest first; one that is being written has another name."""
    found = (output / FOLDER).glob("round_[0-9]*")
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("round_")), reverse=True)


def _write(folder: Path, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Checkpoint:
    """Write a checkpoint's folder, so that it is on the disk when this returns."""
    with replacing(folder, durable=True) as new:
        new.mkdir()
        digests = {}
        for name, tensors in parts.items():
            _save_tensors(new / name, tensors)
            digests[name] = file_sha256(new / name)
        fields = {"format": _FORMAT, "version": _VERSION, **state, "parts": digests}
        text = json.dumps({**fields, "sha256": _digest(fields)}, indent=1)
        (new / STATE).write_text(text, encoding="utf-8")
    return Checkpoint(folder, fields)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file({name: tensor.numpy() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # what safetensors raises where the disk fails
        raise OSError(str(error)) from error


def _open(folder: Path) -> Checkpoint:
    path = folder / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DamagedCheckpoint(f"'{path}' cannot be read: {reason(error)}") from None
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
