"""YAML in which a value has one meaning: what releases of YAML read as different things is refused with a sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from raffm_mpi.errors import UserMistake, reason

DEEPEST = 40  # levels of nesting
_TAG = "tag:yaml.org,2002:"
_UNCLEAR = "!unclear"
# In this order; what none matches is a text. Unlike YAML 1.1, 1e-3 is a number and 2026-01-01 a text.
_PLAIN = {
    _UNCLEAR: re.compile(
        r"""(?: yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF          # booleans or texts
        | [-+]?0[0-9_]+ | [-+]?0[xXoObB][0-9a-fA-F_]+              # octal or decimal, other bases
        | [-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?  # with underscores
        | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?         # base 60 or a time
        )$""",
        re.VERBOSE,
    ),
    f"{_TAG}null": re.compile(r"(?:~|null|Null|NULL|)$"),
    f"{_TAG}bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"),
    f"{_TAG}int": re.compile(r"[-+]?[0-9]+$"),
    f"{_TAG}float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


class _Refused(yaml.MarkedYAMLError):
    """YAML that could mean several things, or more than settings need."""


class _Loader(yaml.SafeLoader):
    """Mappings with every key once, lists, texts, numbers, true and false, null: no aliases, no other tags."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused(f"'*{event.anchor}' is an alias; write the value out", event.start_mark)
        if self._depth >= DEEPEST:
            raise _refused(f"it is nested deeper than {DEEPEST} levels", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[tuple[str, str], Any] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise _refused("a list or a mapping is no key", key.start_mark)
            before = first.setdefault((key.tag, key.value), key)
            if before is not key:
                raise _refused(
                    f"'{key.value}' is given twice, first in line {before.start_mark.line + 1}", key.start_mark
                )
        return {self.construct_object(key, True): self.construct_object(value, True) for key, value in node.value}

    def read_mapping(self, node: Node) -> Any:
        if not isinstance(node, MappingNode):
            raise _refused("it is no mapping", node.start_mark)
        return self.construct_mapping(node)

    def read_list(self, node: Node) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            raise _refused("it is no list", node.start_mark)
        return [self.construct_object(value, True) for value in node.value]

    def read_scalar(self, node: Node) -> Any:
        if not isinstance(node, ScalarNode):
            raise _refused("it is no single value", node.start_mark)
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind != "str" and not _PLAIN[node.tag].match(text):
            raise _refused(f"'{text}' is no {kind}", node.start_mark)
        try:
            return _READ[kind](text)
        except ValueError:  # a whole number of thousands of digits, or half of a surrogate pair
            raise _refused(f"'{text[:20]!r}' cannot be read", node.start_mark) from None

    def refuse_unclear(self, node: Node) -> Any:
        text = str(node.value)
        meant = "true or false" if text[0].isalpha() else f"{_decimal(text)}"
        raise _refused(
            f"'{text}' is not the same in all versions of YAML; write {meant}, or '{text}' in quotes for a text",
            node.start_mark,
        )


def _decimal(text: str) -> str:
    """How a number that is not clear may have been meant."""
    plain = text.replace("_", "")
    return plain.lstrip("+-0") or "0" if re.fullmatch(r"[-+]?[0-9]+", plain) else "a decimal number"


def _text(text: str) -> str:
    text.encode()  # raises UnicodeEncodeError, a ValueError, for half of a surrogate pair
    return text


_READ: dict[str, Any] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": _text,
}
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {None: yaml.SafeLoader.construct_undefined}
for _tag, _pattern in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, _pattern, None)
for _kind in _READ:
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.read_scalar)
_Loader.add_constructor(f"{_TAG}map", _Loader.read_mapping)
_Loader.add_constructor(f"{_TAG}seq", _Loader.read_list)
_Loader.add_constructor(_UNCLEAR, _Loader.refuse_unclear)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that either this loader or a YAML 1.1 one would read as something else."""

    def write_text(self, text: str) -> ScalarNode:
        # Between double quotes what is not printable is escaped; elsewhere PyYAML loses the line ends of Unicode.
        return self.represent_scalar(f"{_TAG}str", text, style=None if text.isprintable() else '"')


for _tag, _pattern in _PLAIN.items():
    _Dumper.add_implicit_resolver(_tag, _pattern, None)
_Dumper.add_representer(str, _Dumper.write_text)


def parse_yaml(text: str, place: str) -> Any:
    """The value that a YAML text stands for; raises UserMistake that begins with ``place`` and names the line."""
    try:
        return yaml.load(text, _Loader)
    except _Refused as error:
        raise UserMistake(f"{place}: {_where(error, text)}{error.problem}") from None
    except yaml.MarkedYAMLError as error:
        raise UserMistake(f"{place} is not YAML: {_where(error, text)}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserMistake(f"{place} is not YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path, place: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; raises UserMistake that begins with ``place`` for any other."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserMistake(f"{place} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserMistake(f"{place} cannot be read: byte {error.start} is not UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise UserMistake(f"{place} cannot be read: {reason(error)}") from None
    values = parse_yaml(text, place)
    if not isinstance(values, dict):
        raise UserMistake(f"{place} must be a mapping of names to values, got {type(values).__name__}")
    return values


def write_yaml(values: Any) -> str:
    """YAML that :func:`parse_yaml` reads back as the same values, and every YAML 1.1 reader, too."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _refused(problem: str, mark: Any) -> _Refused:
    return _Refused(problem=problem, problem_mark=mark)


def _where(error: yaml.MarkedYAMLError, text: str) -> str:
    """The line of a mistake, where there are several."""
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}: " if mark and "\n" in text.strip() else ""
