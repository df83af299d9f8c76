"""The data set as it was published: where it is, its columns, its labels and its splits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raffm_mpi.config import ColumnSettings, DataSettings

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features
    from pyarrow import Array, ChunkedArray

LABEL_NAMES = ("label", "labels")
LABEL_LIKE_NAMES = ("fine_label", "target", "class", "category")
ID_NAMES = ("id", "idx", "index", "guid", "uid", "uuid")
VALIDATION_NAMES = ("validation", "validation_matched", "valid", "val", "dev")
TEXT_TYPES = ("string", "large_string")
DISCRETE_TYPES = (*TEXT_TYPES, "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


@dataclass(frozen=True)
class Columns:
    """The columns that are read: ``image``, or ``text`` with or without ``text_pair``."""

    label: str
    image: str | None = None
    text: str | None = None
    text_pair: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class SplitInfo:
    """One split that is used: its ``role`` here (train, validation or test) and its name in the data set."""

    role: str
    name: str
    num_examples: int
    fingerprint: str


@dataclass(frozen=True)
class DataInfo:
    """What :func:`inspect` found out: plain and small, so that one rank can send it to the others."""

    task: str
    columns: Columns
    label_names: tuple[str, ...]
    splits: tuple[SplitInfo, ...]

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    def has_split(self, role: str) -> bool:
        return any(split.role == role for split in self.splits)


def inspect(settings: DataSettings) -> DataInfo:
    """Find the task, columns, classes and splits of ``data.path`` without decoding an example.

    Raises ValueError with one sentence when something is missing, ambiguous or of the wrong type.
    """
    source = load(settings.path)
    if settings.train_split not in source:
        raise _unknown_split("train_split", settings.train_split, source)
    train = source[settings.train_split]
    columns = _find_columns(train.features, settings.columns, settings.partition.column)
    names = _label_names(train, columns.label)
    splits = tuple(
        SplitInfo(role, name, len(source[name]), source[name]._fingerprint)
        for role, name in _find_splits(source, settings, columns.label, names).items()
    )
    return DataInfo("image" if columns.image else "text", columns, names, splits)


def load(path: str) -> DatasetDict:
    """All splits (a ``datasets.DatasetDict``) of "digits", of a local folder or of a data set on the hub."""
    if path == "digits":
        return _digits()
    folder = Path(path).expanduser()
    looks_local = path.startswith((".", "/", "~")) or path.count(os.sep) > 1 or folder.exists()
    if looks_local and not folder.exists():
        raise ValueError(f"data.path: folder '{path}' does not exist")
    if looks_local and not folder.is_dir():
        raise ValueError(f"data.path: '{path}' is a file; give the folder that holds it")
    from datasets import load_dataset

    try:
        return load_dataset(str(folder) if looks_local else path)
    except Exception as error:  # a dozen unrelated types: the hub, the network, the disk, the file formats
        raise ValueError(f"data.path: '{path}' cannot be loaded: {' '.join(str(error).split())}") from error


def read_column(split: Dataset, name: str) -> ChunkedArray:
    """One column of a split as a ``pyarrow.ChunkedArray``, as stored."""
    return split.select_columns([name]).with_format("arrow")[:].column(name)


def distinct(column: ChunkedArray) -> Array:
    """The sorted distinct values of an Arrow column, without null, as a ``pyarrow.Array``."""
    import pyarrow.compute as pc

    values = pc.unique(column).drop_null()
    return values.take(pc.array_sort_indices(values))


def label_ids(split: Dataset, column: str, names: Sequence[str]) -> np.ndarray:
    """The class of every example, int64 [N]; -1 where the label is null or not one of ``names``."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import ClassLabel

    ids = read_column(split, column)
    if not isinstance(split.features[column], ClassLabel):
        ids = pc.index_in(ids.cast(pa.string()), value_set=pa.array(names, pa.string()))
    ids = np.asarray(pc.fill_null(ids, -1), dtype=np.int64)
    return np.where((ids < 0) | (ids >= len(names)), -1, ids)


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


def _find_columns(features: Features, wanted: ColumnSettings, group: str | None) -> Columns:
    from datasets import Image

    places = {f"columns.{role}": name for role, name in wanted if name is not None}
    for place, name in {**places, "partition.column": group}.items():
        if name is not None and name not in features:
            raise ValueError(f"data.{place}: column '{name}' is not in the data set; columns: {', '.join(features)}")
    if wanted.image and (wanted.text or wanted.text_pair):
        raise ValueError(f"data.columns: image '{wanted.image}' and text are both given; a model takes one of them")
    label = wanted.label or _find_label(features, group)
    _check_type(features, "columns.label", label, DISCRETE_TYPES)
    if group is not None:
        _check_type(features, "partition.column", group, DISCRETE_TYPES)
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    if wanted.image and wanted.image not in images:
        raise ValueError(f"data.columns.image: column '{wanted.image}' holds no images but {features[wanted.image]}")
    if wanted.image or (images and not wanted.text and not wanted.text_pair):
        return Columns(label, image=wanted.image or _only("image", images, features), group=group)
    text, pair = _find_text(features, wanted, label, group)
    return Columns(label, text=text, text_pair=pair, group=group)


def _find_label(features: Features, group: str | None) -> str:
    """The label column: named label, else the only class label, else the only name that says so."""
    from datasets import ClassLabel

    tiers = (
        [name for name in features if name.lower() in LABEL_NAMES],
        [name for name, feature in features.items() if isinstance(feature, ClassLabel)],
        [name for name in features if name.lower() in LABEL_LIKE_NAMES],
    )
    found = next((tier for tier in tiers if tier), [])
    return _only("label", [name for name in found if name != group] or found, features)


def _find_text(features: Features, wanted: ColumnSettings, label: str, group: str | None) -> tuple[str, str | None]:
    for role, name in (("text", wanted.text), ("text_pair", wanted.text_pair)):
        if name is not None:
            _check_type(features, f"columns.{role}", name, TEXT_TYPES)
    if wanted.text:
        return wanted.text, wanted.text_pair
    strings = [name for name, feature in features.items() if getattr(feature, "dtype", None) in TEXT_TYPES]
    others = {label, group, wanted.text_pair}
    found = [name for name in strings if name not in others and name.lower() not in ID_NAMES]
    if len(found) == 2 and wanted.text_pair is None:
        return found[0], found[1]
    return _only("text", found, features), wanted.text_pair


def _only(role: str, found: Sequence[str], features: Iterable[str]) -> str:
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"data.columns.{role}: columns {', '.join(found)} may all be the {role}; name one")
    raise ValueError(f"data.columns.{role}: no column is known as the {role}; name one of {', '.join(features)}")


def _check_type(features: Features, place: str, name: str, allowed: Sequence[str]) -> None:
    """Refuse a column whose values are not of an allowed type (class labels are integers with names)."""
    found = getattr(features[name], "dtype", type(features[name]).__name__)
    if found not in allowed:
        kinds = "strings" if allowed is TEXT_TYPES else "class labels, whole numbers, strings and true/false"
        raise ValueError(f"data.{place}: column '{name}' holds {found}; allowed are {kinds}")


def _label_names(train: Dataset, column: str) -> tuple[str, ...]:
    import pyarrow as pa
    from datasets import ClassLabel

    feature = train.features[column]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    return tuple(distinct(read_column(train, column)).cast(pa.string()).to_pylist())


def _find_splits(source: DatasetDict, settings: DataSettings, label: str, names: Sequence[str]) -> dict[str, str]:
    """The name of the split in each role; a test split whose labels are withheld has no role."""
    splits = {"train": settings.train_split}
    for role, name in (("validation", settings.validation_split), ("test", settings.test_split)):
        if name is None:
            continue
        if name not in source:
            raise _unknown_split(f"{role}_split", name, source)
        if name in splits.values():
            other = next(other for other, used in splits.items() if used == name)
            raise ValueError(f"data.{role}_split: split '{name}' is the {other} split already")
        splits[role] = name
    for role, known in (("validation", VALIDATION_NAMES), ("test", ("test",))):
        found = [name for name in known if name in source and name not in splits.values()]
        if role not in splits and found:
            splits[role] = found[0]
    if "test" in splits and _are_withheld(source[splits["test"]], label, names):
        if settings.test_split is not None:
            raise ValueError(f"data.test_split: the labels of split '{settings.test_split}' are withheld (-1 or null)")
        del splits["test"]
    return splits


def _are_withheld(split: Dataset, label: str, names: Sequence[str]) -> bool:
    """Whether some labels are null, or -1 where that is no class: benchmarks publish their test splits so."""
    unknown = read_column(split, label).filter(label_ids(split, label, names) < 0)
    return not {None, -1}.isdisjoint(unknown.unique().to_pylist())


def _unknown_split(setting: str, name: str, source: Iterable[str]) -> ValueError:
    return ValueError(f"data.{setting}: split '{name}' is not in the data set; splits: {', '.join(source)}")
