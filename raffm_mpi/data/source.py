"""The data set as it was published: where it is, and which of its splits is used for what."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raffm_mpi.config import DataSettings
from raffm_mpi.data.columns import Columns
from raffm_mpi.errors import UserMistake

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

VALIDATION_NAMES = ("validation", "validation_matched", "valid", "val", "dev")
TEST_NAMES = ("test", "test_matched", "validation_mismatched")


@dataclass(frozen=True)
class SplitInfo:
    """One split that is used: its ``role`` here (train, validation or test) and its name in the data set.

    ``fingerprint`` is that of the ``datasets`` library: it finds the cache, and changes with the place of the files.
    """

    role: str
    name: str
    num_examples: int
    fingerprint: str


@dataclass(frozen=True)
class DataInfo:
    """What is known of a data set without decoding an example: plain and small, so that one rank can send it to others.

    ``task`` is the name of its task; ``label_names`` is empty for tasks without classes.
    """

    task: str
    columns: Columns
    label_names: tuple[str, ...]
    splits: tuple[SplitInfo, ...]

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    def has_split(self, role: str) -> bool:
        return any(split.role == role for split in self.splits)


def load(path: str, subset: str | None = None) -> DatasetDict:
    """All splits (a ``datasets.DatasetDict``) of "digits", of a local folder or of a data set on the hub.

    Raises UserMistake with one sentence for what cannot be loaded, with the known subsets where the subset is wrong.
    """
    if path == "digits":
        if subset is not None:
            raise UserMistake(f"data.subset: '{subset}' is not in data set 'digits', which has none")
        return _digits()
    folder = Path(path)
    looks_local = path.startswith((".", "/", "~")) or path.count(os.sep) > 1 or folder.exists()
    if looks_local and not folder.exists():
        raise UserMistake(f"data.path: folder '{path}' does not exist")
    if looks_local and not folder.is_dir():
        raise UserMistake(f"data.path: '{path}' is a file; give the folder that holds it")
    from datasets import load_dataset

    source = str(folder) if looks_local else path
    folders = sorted(inner.name for inner in folder.iterdir() if inner.is_dir()) if looks_local else []
    try:
        if subset in folders and subset not in _configurations(source):
            return load_dataset(source, data_dir=subset)
        return load_dataset(source, subset)
    except Exception as error:  # a dozen unrelated types: the hub, the network, the disk, the file formats
        _check_subset(path, subset, _configurations(source), folders)
        raise UserMistake(f"data.path: '{path}' cannot be loaded: {' '.join(str(error).split())}") from error


def _configurations(source: str) -> list[str]:
    """The configurations of a data set; none where they cannot be found out."""
    from datasets import get_dataset_config_names

    try:
        return list(get_dataset_config_names(source))
    except Exception:  # as many types as load_dataset raises
        return []


def _check_subset(path: str, subset: str | None, configurations: list[str], folders: list[str]) -> None:
    """Raise UserMistake if the subset is the reason why a data set cannot be loaded."""
    known = ", ".join([*configurations, *(name for name in folders if name not in configurations)])
    if subset is None and len(configurations) > 1:
        raise UserMistake(f"data.subset is missing: data set '{path}' has several; known: {known}")
    if subset is not None and configurations and subset not in (*configurations, *folders):
        raise UserMistake(f"data.subset: '{subset}' is not in data set '{path}'; known: {known}")


def _digits() -> DatasetDict:
    """The 1797 grey 8x8 images inside scikit-learn, of which a fixed stratified 20 % are the test split."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    rows = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    return DatasetDict(
        {
            name: Dataset.from_dict({"image": list(pixels[kept]), "label": labels[kept]}, features=features)
            for name, kept in zip(("train", "test"), rows, strict=True)
        }
    )


def training_split(source: DatasetDict, settings: DataSettings) -> Dataset:
    """The split that clients train on; raises UserMistake where the data set has none of its name."""
    if settings.train_split not in source:
        raise _unknown_split("train_split", settings.train_split, source)
    return source[settings.train_split]


def find_splits(
    source: DatasetDict, settings: DataSettings, is_withheld: Callable[[Dataset], bool]
) -> tuple[SplitInfo, ...]:
    """The split in each role: named, or known by its name.

    Of two validation splits, as in MNLI, validation_matched is the validation split; validation_mismatched is the
    test split where there is no other or ``is_withheld`` says that its labels are. Raises UserMistake for a split that
    is not there, has two roles, or is named as the test split although its labels are withheld.
    """
    splits = {"train": settings.train_split}
    for role, name in (("validation", settings.validation_split), ("test", settings.test_split)):
        if name is None:
            continue
        if name not in source:
            raise _unknown_split(f"{role}_split", name, source)
        if name in splits.values():
            other = next(other for other, used in splits.items() if used == name)
            raise UserMistake(f"data.{role}_split: split '{name}' is the {other} split already")
        splits[role] = name
    for role, known in (("validation", VALIDATION_NAMES), ("test", TEST_NAMES)):
        free = [name for name in known if name in source and name not in splits.values()]
        if role == "test":
            free = [name for name in free if not is_withheld(source[name])]
        if role not in splits and free:
            splits[role] = free[0]
    if settings.test_split is not None and is_withheld(source[settings.test_split]):
        raise UserMistake(f"data.test_split: the labels of split '{settings.test_split}' are withheld")
    return tuple(SplitInfo(role, name, len(source[name]), source[name]._fingerprint) for role, name in splits.items())


def _unknown_split(setting: str, name: str, source: Iterable[str]) -> UserMistake:
    return UserMistake(f"data.{setting}: split '{name}' is not in the data set; splits: {', '.join(source)}")
