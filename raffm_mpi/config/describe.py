"""What every setting means, in words made of the settings themselves: for the terminal and for docs/settings.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import annotated_types
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from raffm_mpi.config.base import expanded
from raffm_mpi.config.sentences import nearest
from raffm_mpi.config.settings import Settings
from raffm_mpi.config.strict_yaml import write_yaml
from raffm_mpi.config.tagged import ByTag, choice_of
from raffm_mpi.errors import UserMistake

COMMAND = "raffm-mpi settings --markdown > docs/settings.md"
Fields: TypeAlias = Mapping[str, FieldInfo]  # by name

_WIDTH = 100  # columns of a terminal
_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}
_BOUNDS = {
    annotated_types.Gt: ("gt", "above"),
    annotated_types.Ge: ("ge", "from"),
    annotated_types.Lt: ("lt", "below"),
    annotated_types.Le: ("le", "up to"),
}


_HEAD = f"""# Settings

Every setting of a run: its name, what it may be, its default, and what it means. `raffm-mpi settings` prints the same,
and `raffm-mpi settings GROUP` one group. This page is made of the settings' own sentences by
`{COMMAND}`.

A config is a YAML file of these groups. `key=value` on the command line changes a setting by its dotted name:
`training.learning_rate=3e-5`. Where a group is a choice, its tag alone stands for it with all defaults:
`method: fedavg`, `data.partition=iid`.

- **Values are not converted.** `true` is no number, and `1.0` is no whole number. What the versions of YAML read
  differently (`010`, `0x10`, `1_000`, `1:30`, `yes`, `off`) must be written out, or quoted for a text. A key stands
  once in a mapping. Aliases (`*name`) are not read.
- **`~` is the home folder** in every path. The log holds the folder that it stands for.
- **An option without effect is refused** where it is given: one that goes with another choice
  (`{{kind: iid, shots: 3}}`), and those that the options beside them switch off: `data.validation_fraction` with
  `data.validation_split`, `training.decay_every_rounds` with `training.learning_rate_decay` 1, `method.temperature`
  (fjord) with `distillation` 0, `method.reconfigure_every` (prunefl) with `density` 1, `compute.server_device` and
  `compute.gpu_aware_mpi` with `compute.device` cpu, `reliability.checkpoints_kept` with
  `reliability.checkpoint_every` null. What is refused for want of a group is `aggregation` hetlora, flexlora and
  stacking without `model.lora`, and `method.budget` device without `devices`. Accepted is what depends on more than the
  settings, such as `evaluation.submodels` with a method that has no sub-models, so that one config serves all methods.
- **What has moved since release 0.1**: `method.widths`, `method.budgets` and `method.budget_of` are now
  `method.budget`; `federation.paper_faithful` and `model.lora.aggregation` are now `aggregation`. Logs of 0.1 are read
  as they are.
"""


@dataclass(frozen=True)
class Entry:
    """A setting: its name below its group, what it may be, its default, and what it means."""

    name: str
    allowed: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """A group of settings, or one member of a choice between groups, by its dotted name."""

    name: str
    meaning: str
    entries: tuple[Entry, ...]
    tag: str = ""  # of a member of a choice, as kind: dirichlet


def sections() -> list[Section]:
    """All groups of settings, each before those inside it, and what members of a choice share before them."""
    return list(dict.fromkeys(_group_sections("", Settings, Settings.model_fields)))


def text(wanted: str | None = None) -> str:
    """The settings of one group with what is inside it, or of all; UserMistake for a group that is not there."""
    found = _wanted(wanted)
    return "\n\n".join("\n".join(_text_of(section)) for section in found)


def markdown() -> str:
    """docs/settings.md."""
    parts = [_HEAD]
    before = None
    for section in sections():
        if section.name != before:
            parts.append(f"## {section.name or 'At the top'}\n")
            before = section.name
        parts.append("\n".join(_markdown_of(section)) + "\n")
    return "\n".join(parts)


def _wanted(name: str | None) -> list[Section]:
    every = sections()
    if name is None:
        return every
    found = [section for section in every if section.name == name or section.name.startswith(f"{name}.")]
    if not found:
        known = dict.fromkeys(section.name for section in every if section.name)
        raise UserMistake(f"unknown group of settings '{name}'{nearest(name, known)}")
    return found


def _group_sections(name: str, group: type[BaseModel], fields: Fields, tag: str = "") -> Iterator[Section]:
    """A group, of which some fields are said elsewhere, and then the groups that its fields hold."""
    yield Section(name, _first_paragraph(group), tuple(_entry(key, info) for key, info in fields.items()), tag)
    for key, info in fields.items():
        inner = f"{name}.{key}" if name else key
        by_tag = choice_of(info)
        if by_tag:
            yield from _choice_sections(inner, by_tag, by_tag.members(info.annotation))
        elif (below := _group(info.annotation)) is not None:
            yield from _group_sections(inner, below, below.model_fields)


def _choice_sections(name: str, by_tag: ByTag, members: Mapping[str, type[BaseModel]]) -> Iterator[Section]:
    """What all members of a choice have, then each member with what is its own, then the groups inside them."""
    first, *others = members.values()
    shared = {key for key in first.model_fields if all(key in other.model_fields for other in others)}
    if shared - {by_tag.tag}:
        base = next(cls for cls in first.__mro__ if all(issubclass(other, cls) for other in others))
        common = {key: info for key, info in first.model_fields.items() if key in shared - {by_tag.tag}}
        yield from _group_sections(name, base, common)
    inside = []
    for value, member in members.items():
        own = {key: info for key, info in member.model_fields.items() if key not in shared}
        section, *below = _group_sections(name, member, own, f"{by_tag.tag}: {value}")
        inside += below
        yield section
    yield from inside


def _entry(name: str, info: FieldInfo) -> Entry:
    meaning = " ".join((info.description or "").split())
    if info.is_required():
        default = "must be given"
    elif (by_tag := choice_of(info)) or _group(info.annotation) is not None:
        chosen = info.get_default(call_default_factory=True)
        default = "null" if chosen is None else str(getattr(chosen, by_tag.tag)) if by_tag else "as below"
    else:
        default = _yaml(info.get_default(call_default_factory=True))
    return Entry(name, _allowed(info), default, meaning)


def _allowed(info: FieldInfo) -> str:
    """What a setting may be, in words."""
    by_tag = choice_of(info)
    if by_tag:
        return " | ".join(by_tag.members(info.annotation))
    return _words(info.annotation, info.metadata)


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inner[0], [*inner[1:], *metadata])
    if origin is Literal:
        return " | ".join(str(value) for value in inner)
    if origin is list:
        return f"list of: {_words(inner[0])}"
    if origin is dict:
        return "mapping"
    if inner:
        return " | ".join("null" if member is NoneType else _words(member, metadata) for member in inner)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "group"
    if any(isinstance(entry, AfterValidator) and entry.func is expanded for entry in metadata):
        return "path"
    return " ".join([_NAMES.get(annotation, str(annotation)), *_bounds(metadata)])


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            yield from _bounds(entry.metadata)
        elif type(entry) in _BOUNDS:
            name, word = _BOUNDS[type(entry)]
            yield f"{word} {getattr(entry, name)}"


def _group(annotation: Any) -> type[BaseModel] | None:
    """The group that a field holds, which may be null."""
    for member in (annotation, *get_args(annotation)):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def _first_paragraph(group: type[BaseModel]) -> str:
    return " ".join((group.__doc__ or "").split("\n\n")[0].replace("``", "").split())


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_yaml(entry) for entry in value)}]"
    return write_yaml([value]).strip().removeprefix("- ")


def _text_of(section: Section) -> Iterator[str]:
    yield f"{section.name or 'at the top'}{f' {{{section.tag}}}' if section.tag else ''}"
    yield from textwrap.wrap(section.meaning, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    for entry in section.entries:
        yield f"  {entry.name}: {entry.default}"
        said = entry.meaning if entry.allowed == "group" else f"{entry.meaning} Allowed: {entry.allowed}."
        yield from textwrap.wrap(said, _WIDTH, initial_indent="      ", subsequent_indent="      ")


def _markdown_of(section: Section) -> Iterator[str]:
    yield f"**`{{{section.tag}}}`**: {section.meaning}" if section.tag else section.meaning
    if section.entries:
        yield from ("", "| setting | allowed | default | what it means |", "|---|---|---|---|")
    for entry in section.entries:
        cells = (f"`{entry.name}`", entry.allowed, entry.default, entry.meaning.replace("``", "`"))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
