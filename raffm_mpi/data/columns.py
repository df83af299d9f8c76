"""The columns of a data set: which are read and in which role, what they hold, and what their names suggest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raffm_mpi.errors import UserMistake

if TYPE_CHECKING:
    from datasets import Features

LABEL_NAMES = ("label", "labels")
LABEL_LIKE_NAMES = ("fine_label", "target", "class", "category")
ID_NAMES = ("id", "idx", "index", "guid", "uid", "uuid")

_TEXT = ("string", "large_string")
_FLOAT = ("float16", "float32", "float64")
_WHOLE = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


@dataclass(frozen=True)
class Columns:
    """The columns that are read: the name or the names in each role, and the column that examples are grouped by."""

    roles: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    group: str | None = None

    def one(self, role: str) -> str | None:
        """The column in a role; None where there is none, or where several columns are."""
        found = self.roles.get(role)
        return found if isinstance(found, str) else None

    def of(self, role: str) -> str:
        """The column in a role that is filled by one."""
        found = self.roles[role]
        assert isinstance(found, str), f"{role} is filled by {found}"
        return found

    def every(self, role: str) -> tuple[str, ...]:
        """All columns in a role."""
        found = self.roles.get(role, ())
        return (found,) if isinstance(found, str) else found


@dataclass(frozen=True)
class ColumnType:
    """What a column may hold: in words, and as a question to its feature."""

    words: str
    holds: Callable[[Any], bool]


def is_class_label(feature: Any) -> bool:
    """Whether a feature is of class labels: whole numbers that have names."""
    from datasets import ClassLabel

    return isinstance(feature, ClassLabel)


def is_image(feature: Any) -> bool:
    """Whether a feature is of images."""
    from datasets import Image

    return isinstance(feature, Image)


def is_string(feature: Any) -> bool:
    """Whether a feature is of strings."""
    return _dtype(feature) in _TEXT


def is_float(feature: Any) -> bool:
    """Whether a feature is of floating-point numbers."""
    return _dtype(feature) in _FLOAT


def is_whole(feature: Any) -> bool:
    """Whether a feature is of whole numbers without names."""
    return _dtype(feature) in _WHOLE and not is_class_label(feature)


def is_discrete(feature: Any) -> bool:
    """Whether a feature is of class labels, whole numbers, strings or true and false."""
    return is_class_label(feature) or is_string(feature) or is_whole(feature) or _dtype(feature) == "bool"


IMAGES = ColumnType("images", is_image)
STRINGS = ColumnType("strings", is_string)
NUMBERS = ColumnType("numbers", lambda feature: is_float(feature) or is_whole(feature))
DISCRETE = ColumnType("class labels, whole numbers, strings and true/false", is_discrete)


def check_type(features: Features, place: str, name: str, allowed: ColumnType, task: str = "") -> None:
    """Raise UserMistake if the column ``name``, which the setting ``data.PLACE`` speaks of, holds anything else."""
    if not allowed.holds(features[name]):
        needed = f"task {task} allows" if task else "allowed are"
        raise UserMistake(f"data.{place}: column '{name}' holds {_described(features[name])}; {needed} {allowed.words}")


def only(role: str, found: Sequence[str], features: Iterable[str], remedy: str = "") -> str:
    """The one column that was found for a role; raises UserMistake where there is none or are several."""
    if len(found) == 1:
        return found[0]
    if found:
        raise UserMistake(f"data.columns.{role}: columns {', '.join(found)} may all be the {role}; name one")
    raise UserMistake(
        f"data.columns.{role}: no column is known as the {role}; name one of {', '.join(features)}{remedy}"
    )


def image_columns(features: Features) -> list[str]:
    """The columns of images."""
    return [name for name, feature in features.items() if is_image(feature)]


def text_columns(features: Features, others: Iterable[str | None]) -> list[str]:
    """The columns of strings that are no identifiers and not among ``others``, which have a role already."""
    taken = set(others)
    strings = [name for name, feature in features.items() if is_string(feature)]
    return [name for name in strings if name not in taken and name.lower() not in ID_NAMES]


def label_columns(features: Features, group: str | None) -> list[str]:
    """What may be the label: a column named so, else class labels, else columns with a name like it."""
    tiers = (
        [name for name in features if name.lower() in LABEL_NAMES],
        [name for name, feature in features.items() if is_class_label(feature)],
        [name for name in features if name.lower() in LABEL_LIKE_NAMES],
    )
    found = next((tier for tier in tiers if tier), [])
    return [name for name in found if name != group] or found


def _dtype(feature: Any) -> str | None:
    found: str | None = getattr(feature, "dtype", None)
    return found


def _described(feature: Any) -> str:
    if is_class_label(feature):
        return "class labels"
    return IMAGES.words if is_image(feature) else _dtype(feature) or str(feature)
