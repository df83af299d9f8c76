"""Examples that cannot be read: in training marked for whoever meets them, in the other splits refused."""

from __future__ import annotations

import json
from pathlib import Path

from raffm_mpi.errors import UserMistake

MOST_UNREADABLE = 0.1  # of the training examples; where more are, the column is wrong and not an example


class UnreadableExample(Exception):
    """A batch holds an example that could not be read when the data set was prepared; the message names it."""


class Unreadable:
    """The examples of one split that cannot be read, which a writer marks and stores a placeholder for."""

    def __init__(self, role: str, num_examples: int, where: str) -> None:
        self._role = role
        self._num_examples = num_examples
        self.where = where
        self._causes: dict[int, str] = {}

    def mark(self, row: int, cause: str) -> None:
        """Note why an example cannot be read; the first cause of a row stays.

        Raises UserMistake in a split that is scored, since a score over fewer examples would be another score, and
        when more than ``MOST_UNREADABLE`` of the training examples are marked.
        """
        self._causes.setdefault(row, cause)
        if self._role != "train":
            raise UserMistake(self._sentence(row))
        if len(self._causes) > MOST_UNREADABLE * self._num_examples:
            first = min(self._causes)
            raise UserMistake(
                f"{self.where}: at least {len(self._causes)} of {self._num_examples} examples cannot be read, more "
                f"than {MOST_UNREADABLE:.0%}; the first is row {first}: {self._causes[first]}"
            )

    def save(self, folder: Path) -> None:
        """Write ``ROLE_unreadable.json`` (row: sentence), if any example is marked."""
        if self._causes:
            sentences = {row: self._sentence(row) for row in sorted(self._causes)}
            path = folder / f"{self._role}_unreadable.json"
            path.write_text(json.dumps(sentences, indent=2, ensure_ascii=False), encoding="utf-8")

    def __contains__(self, row: int) -> bool:
        return row in self._causes

    def _sentence(self, row: int) -> str:
        return f"{self.where}, row {row}: {self._causes[row]}"


def load_unreadable(folder: Path, role: str) -> dict[int, str]:
    """The sentence on each example of a prepared split that cannot be read, by its row, ascending."""
    path = folder / f"{role}_unreadable.json"
    sentences = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {int(row): sentence for row, sentence in sentences.items()}
