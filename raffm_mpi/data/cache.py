"""The prepared data set on disk: decoded or tokenised once, then shared by the ranks of a node and by later runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raffm_mpi.config import DataSettings
from raffm_mpi.data.fingerprint import load_fingerprint, save_fingerprint
from raffm_mpi.data.formats import Format, Writer
from raffm_mpi.data.inputs import ImageInput, TextInput
from raffm_mpi.data.labels import distinct, read_column
from raffm_mpi.data.partitions import draw_from_each
from raffm_mpi.data.source import DataInfo, load
from raffm_mpi.data.splits import HELD_OUT, META, stored_examples
from raffm_mpi.data.unreadable import Unreadable, load_unreadable
from raffm_mpi.errors import UserMistake
from raffm_mpi.seeds import generator

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT_VERSION = 3

# Without these the folders of data sets that were prepared by earlier releases would not be found.
_ROLES_OF_FORMAT_3 = ("label", "image", "text", "text_pair", "question", "context", "answers", "target")


def prepare(info: DataInfo, task: Format, settings: DataSettings, inputs: ImageInput | TextInput, seed: int) -> Path:
    """Build the memory-mapped examples under ``data.cache`` unless they are there, and return their folder.

    ``task`` is the one that ``info`` names. The examples are stored once for all seeds; a held-out validation split is
    a folder of their numbers inside. Folders appear whole or not at all, so processes may race. Each holds the
    fingerprint of its examples.

    A training example that cannot be read is marked, and ``Split.batch`` refuses it; none is held out.

    Raises UserMistake naming the split and row of an example that cannot be used, or the setting that is wrong.
    """
    writer = _writer(info, task, settings, inputs)
    described = _describe(info, settings, inputs, writer)
    root = _root(settings, described, writer)

    def write_examples(folder: Path) -> None:
        source = load(settings.path, settings.subset)
        for split in info.splits:
            where = f"data.path: split '{split.name}'"
            _write_split(folder, split.role, source[split.name], info, task, writer, where)
        (folder / META).write_text(json.dumps(described, indent=2, ensure_ascii=False), encoding="utf-8")
        save_fingerprint(folder, [_meaning(described), list(load_unreadable(folder, "train"))])

    _build_once(root, write_examples)
    folder, fraction = _folder(root, info, settings, seed), settings.validation_fraction
    if folder == root:
        return root
    examples = np.unique(stored_examples(root, "train", described["num_examples"]["train"]))
    examples = np.setdiff1d(examples, list(load_unreadable(root, "train")))
    labels = np.load(root / "train_labels.npy")
    classes = task.classes(labels, labels)[examples]

    def hold_out(folder: Path) -> None:
        np.save(folder / HELD_OUT, examples[_hold_out(classes, fraction, seed)])
        save_fingerprint(folder, load_fingerprint(root))

    return _build_once(folder, hold_out)


def prepared(
    info: DataInfo, task: Format, settings: DataSettings, inputs: ImageInput | TextInput, seed: int
) -> Path | None:
    """The folder that :func:`prepare` would return, if it is there already."""
    writer = _writer(info, task, settings, inputs)
    root = _root(settings, _describe(info, settings, inputs, writer), writer)
    folder = _folder(root, info, settings, seed)
    return folder if folder.exists() else None


def _describe(info: DataInfo, settings: DataSettings, inputs: ImageInput | TextInput, writer: Writer) -> dict[str, Any]:
    """All that the stored bytes follow from, beside how they are written."""
    return {
        "format_version": FORMAT_VERSION,
        "path": settings.path,
        "subset": settings.subset,
        **asdict(info),
        "columns": {**dict.fromkeys(_ROLES_OF_FORMAT_3), **info.columns.roles, "group": info.columns.group},
        "num_examples": {split.role: split.num_examples for split in info.splits},
        "inputs": asdict(inputs),
        "padding": writer.padding,
    }


def _root(settings: DataSettings, described: dict[str, Any], writer: Writer) -> Path:
    """Where the examples are stored for all seeds."""
    key = hashlib.sha256(json.dumps([described, writer.identity], sort_keys=True).encode()).hexdigest()
    return Path(settings.cache) / key


def _folder(root: Path, info: DataInfo, settings: DataSettings, seed: int) -> Path:
    """The folder of one seed: the root itself where no validation split is held out."""
    fraction = settings.validation_fraction
    held_out = fraction > 0 and not info.has_split("validation")
    return root / f"held_out-{fraction}-seed-{seed}" if held_out else root


def _meaning(described: dict[str, Any]) -> dict[str, Any]:
    """What the stored bytes mean, of what is written down: no paths, and no names that only find the data."""
    inputs = {name: value for name, value in described["inputs"].items() if name != "tokenizer"}
    return {name: described[name] for name in ("format_version", "task", "label_names", "padding")} | {"inputs": inputs}


def _writer(info: DataInfo, task: Format, settings: DataSettings, inputs: ImageInput | TextInput) -> Writer:
    if isinstance(inputs, ImageInput) != task.takes_images(info.columns):
        taken = "images" if isinstance(inputs, ImageInput) else "text"
        raise UserMistake(f"data.path: '{settings.path}' holds {info.task} examples, but the model takes {taken}")
    return task.writer(inputs, settings)


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
            raise UserMistake(f"data.cache: '{folder.parent}' cannot be filled: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_split(
    folder: Path, role: str, examples: Dataset, info: DataInfo, task: Format, writer: Writer, where: str
) -> None:
    np.save(folder / f"{role}_labels.npy", task.labels(examples, info.columns, info.label_names, where))
    if role == "train" and info.columns.group is not None:
        np.save(folder / "train_groups.npy", _group_ids(examples, info.columns.group, where))
    unreadable = Unreadable(role, len(examples), where)
    writer.write(folder, role, examples, info.columns, unreadable)
    unreadable.save(folder)


def _group_ids(examples: Dataset, column: str, where: str) -> np.ndarray:
    """The rank of each example's value among the sorted distinct values of the column, int64 [N]."""
    import pyarrow.compute as pc

    values = read_column(examples, column)
    ids = np.asarray(pc.fill_null(pc.index_in(values, value_set=distinct(values)), -1), dtype=np.int64)
    missing = np.flatnonzero(ids < 0)
    if missing.size:
        raise UserMistake(f"{where}, row {missing[0]}: column '{column}' is null; by_column needs a value everywhere")
    return ids


def _hold_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Ascending positions of a stratified validation split, int64: of each class its share, give or take one.

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
        raise UserMistake(
            f"data.validation_fraction: {fraction} of {len(labels)} training examples holds out none; "
            "allowed are 0 (no validation split) and larger fractions"
        )
    return np.sort(draw_from_each(labels, taken, generator(seed, "validation")))
