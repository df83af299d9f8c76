"""The task of a data set and the columns that it reads, inferred unless they are named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raffm_mpi.config import ColumnSettings, DataSettings, Task
from raffm_mpi.errors import UserMistake

if TYPE_CHECKING:
    from datasets import Features

ROLES: dict[Task, tuple[str, ...]] = {
    "image_classification": ("image", "label"),
    "text_classification": ("text", "text_pair", "label"),
    "regression": ("text", "text_pair", "label"),
    "question_answering": ("question", "context", "answers"),
    "seq2seq": ("text", "target"),
    "causal_lm": ("text",),
}
LABEL_NAMES = ("label", "labels")
LABEL_LIKE_NAMES = ("fine_label", "target", "class", "category")
ID_NAMES = ("id", "idx", "index", "guid", "uid", "uuid")

CLASS_LABEL = "class labels"
TEXT_TYPES = ("string", "large_string")
FLOAT_TYPES = ("float16", "float32", "float64")
WHOLE_TYPES = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
TYPES = {
    "strings": TEXT_TYPES,
    "numbers": (*FLOAT_TYPES, *WHOLE_TYPES),
    "class labels, whole numbers, strings and true/false": (CLASS_LABEL, *TEXT_TYPES, "bool", *WHOLE_TYPES),
}
STRINGS, NUMBERS, DISCRETE = TYPES


@dataclass(frozen=True)
class Columns:
    """The columns that are read, by role; None where the task (see ``ROLES``) or the data set has none."""

    label: str | None = None
    image: str | None = None
    text: str | None = None
    text_pair: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    target: str | None = None
    group: str | None = None


def find_columns(features: Features, settings: DataSettings) -> tuple[Task, Columns]:
    """The task and its columns.

    Raises UserMistake with one sentence for a column that is missing, ambiguous, of the wrong type, or not the task's.
    """
    wanted, group = settings.columns, settings.partition.client_column
    named = {role: name for role, name in wanted if name is not None}
    for place, name in {**{f"columns.{role}": name for role, name in named.items()}, "partition.column": group}.items():
        if name is not None and name not in features:
            raise UserMistake(f"data.{place}: column '{name}' is not in the data set; columns: {', '.join(features)}")
    if group is not None:
        _check_type(features, "partition.column", group, DISCRETE)
    if len(set(named.values())) < len(named):
        raise UserMistake(
            f"data.columns: {', '.join(named)} name columns {', '.join(named.values())}; a column has one role"
        )
    task = settings.task or _infer_task(features, wanted, group)
    for role, name in named.items():
        if role not in ROLES[task]:
            raise UserMistake(
                f"data.columns.{role}: column '{name}' is named, but {task} reads only {', '.join(ROLES[task])}"
            )
    return task, _columns_of(task, features, wanted, group)


def _infer_task(features: Features, wanted: ColumnSettings, group: str | None) -> Task:
    named = {role for role, name in wanted if name is not None}
    questions = set(ROLES["question_answering"])
    if wanted.image or (_images(features) and named <= {"label"}):
        return "image_classification"
    if named & questions or (not named and questions <= set(features)):
        return "question_answering"
    if wanted.target:
        return "seq2seq"
    labels = [wanted.label] if wanted.label else _labels(features, group)
    others = {name for name in features if name.lower() not in ID_NAMES} - {group}
    if not labels and others == set(_texts(features, {group})) and len(others) == 1:
        return "causal_lm"
    label = _only("label", labels, features, "; set data.task: causal_lm for texts without one")
    return "regression" if _type(features[label]) in FLOAT_TYPES else "text_classification"


def _columns_of(task: Task, features: Features, wanted: ColumnSettings, group: str | None) -> Columns:
    label = None
    if "label" in ROLES[task]:
        label = wanted.label or _only("label", _labels(features, group), features)
        _check_type(features, "columns.label", label, NUMBERS if task == "regression" else DISCRETE, task)
    if task == "image_classification":
        return Columns(label, image=_find_image(features, wanted), group=group)
    if task == "question_answering":
        return _find_questions(features, wanted, group)
    for role, name in (("text", wanted.text), ("text_pair", wanted.text_pair), ("target", wanted.target)):
        if name is not None:
            _check_type(features, f"columns.{role}", name, STRINGS, task)
    target = _only("target", [wanted.target] if wanted.target else [], features) if task == "seq2seq" else None
    found = [wanted.text] if wanted.text else _texts(features, {label, target, group, wanted.text_pair})
    if "text_pair" in ROLES[task] and len(found) == 2 and wanted.text_pair is None:
        return Columns(label, text=found[0], text_pair=found[1], group=group)
    return Columns(label, text=_only("text", found, features), text_pair=wanted.text_pair, target=target, group=group)


def _find_image(features: Features, wanted: ColumnSettings) -> str:
    images = _images(features)
    if wanted.image and wanted.image not in images:
        raise UserMistake(f"data.columns.image: column '{wanted.image}' holds no images but {features[wanted.image]}")
    return wanted.image or _only("image", images, features)


def _find_questions(features: Features, wanted: ColumnSettings, group: str | None) -> Columns:
    found = {}
    for role in ROLES["question_answering"]:
        name = getattr(wanted, role) or role
        found[role] = _only(role, [name] if name in features else [], features)
    for role in ("question", "context"):
        _check_type(features, f"columns.{role}", found[role], STRINGS, "question_answering")
    answers: Any = features[found["answers"]]
    parts = answers if isinstance(answers, dict) else {}
    types = {name: _type(getattr(part, "feature", None)) for name, part in parts.items()}
    if types.get("text") not in TEXT_TYPES or types.get("answer_start") not in WHOLE_TYPES:
        raise UserMistake(
            f"data.columns.answers: column '{found['answers']}' holds {answers}; allowed are answers of the form "
            "{text: [strings], answer_start: [whole numbers]}"
        )
    return Columns(**found, group=group)


def _images(features: Features) -> list[str]:
    from datasets import Image

    return [name for name, feature in features.items() if isinstance(feature, Image)]


def _labels(features: Features, group: str | None) -> list[str]:
    """What may be the label: a column named so, else class labels, else columns with a name like it."""
    tiers = (
        [name for name in features if name.lower() in LABEL_NAMES],
        [name for name, feature in features.items() if _type(feature) == CLASS_LABEL],
        [name for name in features if name.lower() in LABEL_LIKE_NAMES],
    )
    found = next((tier for tier in tiers if tier), [])
    return [name for name in found if name != group] or found


def _texts(features: Features, others: set[str | None]) -> list[str]:
    """The columns of strings that are no identifiers and have no other role."""
    strings = [name for name, feature in features.items() if _type(feature) in TEXT_TYPES]
    return [name for name in strings if name not in others and name.lower() not in ID_NAMES]


def _only(role: str, found: Sequence[str], features: Iterable[str], remedy: str = "") -> str:
    if len(found) == 1:
        return found[0]
    if found:
        raise UserMistake(f"data.columns.{role}: columns {', '.join(found)} may all be the {role}; name one")
    raise UserMistake(
        f"data.columns.{role}: no column is known as the {role}; name one of {', '.join(features)}{remedy}"
    )


def _type(feature: Any) -> str:
    from datasets import ClassLabel

    return CLASS_LABEL if isinstance(feature, ClassLabel) else getattr(feature, "dtype", type(feature).__name__)


def _check_type(features: Features, place: str, name: str, allowed: str, task: Task | None = None) -> None:
    found = _type(features[name])
    if found not in TYPES[allowed]:
        needed = f"; task {task} allows" if task else "; allowed are"
        raise UserMistake(f"data.{place}: column '{name}' holds {found}{needed} {allowed}")
