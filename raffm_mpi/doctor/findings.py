"""A line of the doctor's table: what was found on one topic, how bad it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line; ``advice`` says what to do where all is not well."""

    level: Level
    topic: str
    text: str
    advice: str = ""

    def __post_init__(self) -> None:
        assert (self.level == "ok") == (not self.advice), "a line that is not ok says what to do"

    def __str__(self) -> str:
        """The line as plain text."""
        return f"{self.level:<6}{self.topic:<14}{self.text}" + (f"; do: {self.advice}" if self.advice else "")


def ok(topic: str, text: str) -> Finding:
    """A finding with nothing to do."""
    return Finding("ok", topic, text)


def warn(topic: str, text: str, advice: str) -> Finding:
    """A run works, but worse than it could."""
    return Finding("warn", topic, text, advice)


def fail(topic: str, text: str, advice: str) -> Finding:
    """A run does not work, or does another thing than was meant."""
    return Finding("fail", topic, text, advice)


def exit_status(findings: Iterable[Finding]) -> int:
    """1 where something fails, else 0."""
    return int(any(finding.level == "fail" for finding in findings))


def listed(items: Iterable[object], most: int = 4) -> str:
    """The items with commas, the ``most`` first of them by name."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
