"""A choice between groups of settings, by one of their fields, the tag: ``{kind: dirichlet, alpha: 0.5}``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from raffm_mpi.config.base import FROM_LOG

Members = dict[str, type[BaseModel]]  # by the tag's values


@dataclass(frozen=True)
class ByTag:
    """Metadata of an annotated union of groups: ``Annotated[IID | Dirichlet, ByTag("kind", "iid")]``.

    The tag's value alone stands for its group with all defaults. Where a mapping lacks the tag, it is ``default``, and
    a mistake if that is None. An option that is null is one that was left out. A member whose tag is no literal takes
    every text with a colon, and ``written`` says how such a text looks.
    """

    tag: str
    default: str | None = None
    written: str = ""

    def members(self, union: Any) -> Members:
        """The groups of the union by the values of their tags, in their order."""
        found: Members = {}
        for member in get_args(union):
            annotation = member.model_fields[self.tag].annotation
            tags = get_args(annotation) if get_origin(annotation) is Literal else (self.written,)
            found |= dict.fromkeys(tags, member)
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        members = self.members(source)
        schemas = {tag: handler.generate_schema(member) for tag, member in members.items()}
        union = core_schema.tagged_union_schema(schemas, lambda values: self._tag_of(members, values))
        return core_schema.with_info_before_validator_function(
            lambda values, info: self._completed(members, values, info), union
        )

    def _tag_of(self, members: Members, values: Any) -> Any:
        """The tag's value; a text of none of the literals that has a colon is the open member's."""
        tag = values.get(self.tag) if isinstance(values, dict) else getattr(values, self.tag, None)
        is_open = self.written and isinstance(tag, str) and tag not in members and ":" in tag
        return self.written if is_open else tag

    def _completed(self, members: Members, values: Any, info: ValidationInfo) -> Any:
        """The values with their tag, without options that are null; of a log, without those of other members."""
        if isinstance(values, str):
            return {self.tag: values}
        if not isinstance(values, dict):
            return values
        known = {name for member in members.values() for name in member.model_fields}
        given = {name: value for name, value in values.items() if value is not None or name not in known}
        if self.default is not None:
            given = {self.tag: self.default, **given}
        tag = self._tag_of(members, given)
        if info.context == FROM_LOG and isinstance(tag, str) and tag in members:
            own = members[tag].model_fields
            given = {name: value for name, value in given.items() if name in own or name not in known}
        return given


def choice_of(field: FieldInfo) -> ByTag | None:
    """The choice by which a field's group is found; None for any other field."""
    return next((entry for entry in field.metadata if isinstance(entry, ByTag)), None)
