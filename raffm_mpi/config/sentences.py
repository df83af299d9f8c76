"""What pydantic finds wrong, in sentences: one for each mistake, with its value, its place and what is allowed."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from raffm_mpi.config.moved import now
from raffm_mpi.config.tagged import ByTag, choice_of

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_NEEDED = {
    "int_type": "a whole number is needed",
    "float_type": "a number is needed",
    "bool_type": "true or false is needed",
    "string_type": "a text is needed",
    "list_type": "a list is needed",
    "dict_type": "a mapping is needed",
    "model_type": "a group of settings is needed",
    "invalid_key": "a name is needed",
}


@dataclass(frozen=True)
class _Place:
    """Where a mistake is: ``shown`` without the tags of choices, the group it is in, and its own annotation."""

    shown: str
    group: type[BaseModel] | None
    annotation: Any
    choice: ByTag | None  # that is made at this place
    members: dict[str, type[BaseModel]]  # of the choice by which the group was chosen
    tag: tuple[str, str] | None  # of that choice: its name and value


def sentences(error: ValidationError, model: type[BaseModel], source: str, remedy: str = "") -> list[str]:
    """A sentence for each mistake, which begins with its ``source`` and its place in the model.

    ``remedy`` ends the sentence of what is missing.
    """
    found = []
    for item in error.errors(include_url=False):
        place = _place(model, item["loc"])
        what = f"{place.shown}{_what(item, place)}".removeprefix(": ")
        found.append(f"{source}: {what}{remedy if item['type'] == 'missing' else ''}")
    return list(dict.fromkeys(found))


def nearest(given: Any, known: Iterable[str], introduction: str = "known") -> str:
    """The end of a sentence about an unknown name: the nearest known one, if one is near, and all of them.

    >>> nearest("fedavgg", ["fedavg", "raffm"])
    ", did you mean 'fedavg'? known: fedavg, raffm"
    >>> nearest("x", ["fedavg", "raffm"])
    '; known: fedavg, raffm'
    """
    known = list(known)
    return f"{suggestion(given, known) or ';'} {introduction}: {', '.join(known)}"


def suggestion(given: Any, known: Iterable[str]) -> str:
    """A question for the nearest known name, as part of a sentence about an unknown one; empty where none is near.

    >>> suggestion("fedavgg", ["fedavg", "raffm"]), suggestion("x", ["fedavg", "raffm"])
    (", did you mean 'fedavg'?", '')
    """
    near = difflib.get_close_matches(str(given), list(known), n=1)
    return f", did you mean '{near[0]}'?" if near else ""


def shown(value: Any) -> str:
    """A value as a sentence shows it: as YAML spells it, on one line and not longer than that."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else _SHORT.repr(value)


def _what(item: ErrorDetails, place: _Place) -> str:
    """What is wrong at a place: a verb of its own, or a sentence after a colon."""
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        moved = now(place.shown, value)
        return f" {moved}" if moved else _unknown_key(str(item["loc"][-1]), place)
    if kind == "missing":
        return " is missing"
    if kind == "value_error":
        return f": {item['ctx']['error']}"
    if kind in ("union_tag_invalid", "union_tag_not_found") and place.choice:
        return _unknown_tag(value, place.choice, place.choice.members(place.annotation))
    message = _NEEDED.get(kind, item["msg"][0].lower() + item["msg"][1:])
    is_word = kind == "literal_error" and isinstance(value, str)
    near = suggestion(value, _literals(place.annotation)) if is_word else ""
    return f": {shown(value)} is not allowed{near or ':'} {message}"


def _unknown_key(key: str, place: _Place) -> str:
    if place.tag:
        takers = [tag for tag, member in place.members.items() if key in member.model_fields]
        if takers:
            return f" goes with {place.tag[0]} {', '.join(takers)}, not {place.tag[1]}"
    return f": unknown key{nearest(key, place.group.model_fields if place.group else (), 'allowed')}"


def _unknown_tag(value: Any, choice: ByTag, known: Iterable[str]) -> str:
    if not isinstance(value, dict):
        return f": {shown(value)} is not allowed; known: {', '.join(known)}"
    if choice.tag not in value:
        return f": {choice.tag} is missing; known: {', '.join(known)}"
    return f": unknown {choice.tag} {shown(value[choice.tag])}{nearest(value[choice.tag], known)}"


def _place(model: type[BaseModel], location: Sequence[int | str]) -> _Place:
    """Follow pydantic's location through the annotations, in which a choice adds its tag."""
    names: list[str] = []
    here: Any = model
    choice: ByTag | None = None
    group: type[BaseModel] | None = None
    members: dict[str, type[BaseModel]] = {}
    tag = None
    for part in location:
        if choice and part in choice.members(here):
            members, tag = choice.members(here), (choice.tag, str(part))
            here, choice = members[str(part)], None
            continue
        names.append(part if isinstance(part, str) and part.isprintable() else repr(part))
        if isinstance(here, type) and issubclass(here, BaseModel):
            group = here
            tag = tag if here in members.values() else None
            field = here.model_fields.get(str(part))
            here, choice = _annotation(field) if field else (None, None)
        else:
            inner = get_args(here)
            here, choice, group = inner[-1] if inner else None, None, None
    return _Place(".".join(names), group, here, choice, members, tag)


def _annotation(field: FieldInfo) -> tuple[Any, ByTag | None]:
    """What a field holds, where it is not null, and the choice between it."""
    given = [member for member in get_args(field.annotation) if member is not NoneType]
    is_optional = len(given) == 1 and NoneType in get_args(field.annotation)
    return given[0] if is_optional else field.annotation, choice_of(field)


def _literals(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for inner in get_args(annotation) for value in _literals(inner)]
