"""The prepared data set on disk: decoded or tokenised once, then shared by the ranks of a node and by later runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raffm_mpi.config import DataSettings
from raffm_mpi.data.inputs import ImageInput, ImageWriter, TextInput, TextWriter
from raffm_mpi.data.partitions import draw_from_each
from raffm_mpi.data.source import DataInfo, distinct, label_ids, load, read_column
from raffm_mpi.data.splits import HELD_OUT, META
from raffm_mpi.seeds import generator

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT_VERSION = 1


def prepare(info: DataInfo, settings: DataSettings, inputs: ImageInput | TextInput, seed: int) -> Path:
    """Build the memory-mapped examples under ``data.cache`` unless they are there, and return their folder.

    The examples are stored once for all seeds; a held-out validation split is a folder of row numbers inside.
    Folders appear whole or not at all, so processes may race.

    Raises ValueError naming the split and row of an example that cannot be used, or the setting that is wrong.
    """
    writer = ImageWriter(inputs) if isinstance(inputs, ImageInput) else TextWriter(inputs)
    if info.task != writer.task:
        raise ValueError(f"data.path: '{settings.path}' holds {info.task} examples, but the model takes {writer.task}")
    described = {
        "format_version": FORMAT_VERSION,
        "path": settings.path,
        **asdict(info),
        "num_examples": {split.role: split.num_examples for split in info.splits},
        "inputs": asdict(inputs),
        "padding": writer.padding,
    }
    key = hashlib.sha256(json.dumps([described, writer.identity], sort_keys=True).encode()).hexdigest()

    def write_examples(folder: Path) -> None:
        source = load(settings.path)
        for split in info.splits:
            _write_split(folder, split.role, source[split.name], info, writer, f"data.path: split '{split.name}'")
        (folder / META).write_text(json.dumps(described, indent=2, ensure_ascii=False), encoding="utf-8")

    root = _build_once(Path(settings.cache).expanduser() / key, write_examples)
    fraction = settings.validation_fraction
    if info.has_split("validation") or fraction == 0:
        return root
    labels = np.load(root / "train_labels.npy")
    return _build_once(
        root / f"held_out-{fraction}-seed-{seed}",
        lambda folder: np.save(folder / HELD_OUT, _hold_out(labels, fraction, seed)),
    )


def _build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """The folder, filled by ``build`` in a temporary sibling and renamed, unless it (meanwhile) exists."""
    if folder.exists():
        return folder
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        build(temporary)
        temporary.rename(folder)
    except OSError as error:
        if not folder.exists():
            raise ValueError(f"data.cache: '{folder.parent}' cannot be filled: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_split(
    folder: Path, role: str, examples: Dataset, info: DataInfo, writer: ImageWriter | TextWriter, where: str
) -> None:
    np.save(folder / f"{role}_labels.npy", _known_label_ids(examples, info, where))
    if role == "train" and info.columns.group is not None:
        np.save(folder / "train_groups.npy", _group_ids(examples, info.columns.group, where))
    writer.write(folder, role, examples, info.columns, where)


def _known_label_ids(examples: Dataset, info: DataInfo, where: str) -> np.ndarray:
    labels = label_ids(examples, info.columns.label, info.label_names)
    unknown = np.flatnonzero(labels < 0)
    if unknown.size:
        value = read_column(examples, info.columns.label)[int(unknown[0])].as_py()
        raise ValueError(f"{where}, row {unknown[0]}: label {value!r} is not one of the {info.num_classes} classes")
    return labels


def _group_ids(examples: Dataset, column: str, where: str) -> np.ndarray:
    """The rank of each example's value among the sorted distinct values of the column, int64 [N]."""
    import pyarrow.compute as pc

    values = read_column(examples, column)
    ids = np.asarray(pc.fill_null(pc.index_in(values, value_set=distinct(values)), -1), dtype=np.int64)
    missing = np.flatnonzero(ids < 0)
    if missing.size:
        raise ValueError(f"{where}, row {missing[0]}: column '{column}' is null; by_column needs a value everywhere")
    return ids


def _hold_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Ascending rows of a stratified validation split, int64: of each class its share, give or take one.

    Shares are rounded down, then those with the largest remainders up, but a class never loses its last example.
    """
    sizes = np.bincount(labels)
    shares = sizes * fraction
    taken = np.floor(shares).astype(np.int64)
    remainders = np.where(taken + 1 < sizes, shares - taken, 0)
    short = round(len(labels) * fraction) - int(taken.sum())
    rounded_up = np.argsort(-remainders, kind="stable")[:short]
    taken[rounded_up] += remainders[rounded_up] > 0
    if not taken.any():
        raise ValueError(
            f"data.validation_fraction: {fraction} of {len(labels)} training examples holds out none; "
            "allowed are 0 (no validation split) and larger fractions"
        )
    return np.sort(draw_from_each(labels, taken, generator(seed, "validation")))
