"""What a task decides: its columns, how its examples are stored, its head, its predictions and what they are worth."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from raffm_mpi.config import DataSettings
from raffm_mpi.data import Columns, DataInfo, Format, ImageInput, Reader, Split, TextInput, Writer
from raffm_mpi.data.columns import (
    STRINGS,
    ColumnType,
    check_type,
    image_columns,
    label_columns,
    only,
    text_columns,
)
from raffm_mpi.data.images import ImageReader, ImageWriter
from raffm_mpi.data.texts import TextReader, TextWriter
from raffm_mpi.elastic.cost import Lengths
from raffm_mpi.errors import UserMistake

if TYPE_CHECKING:
    from datasets import Dataset, Features

BY_ANY_TASK = ("iid", "by_column")  # the kinds of partition that need no classes
BY_CLASS = ("dirichlet", "shards", "k_shot")


@dataclass(frozen=True)
class Role:
    """What the column in a role may hold; with ``each``, several columns may share the role, which hold that."""

    holds: ColumnType
    each: ColumnType | None = None


TEXTS = {"text": Role(STRINGS), "text_pair": Role(STRINGS)}


class Task(Format):
    """A task, without state: what it is asked of a data set it is told in ``info`` or ``columns``.

    docs/tasks.md describes each hook with shapes, dtypes and errors. Those that are not abstract are right for most
    tasks: an image or a text (or a pair) with a label.
    """

    name: str
    roles: ClassVar[Mapping[str, Role]]  # all that it can read, in the order of its sentences
    partitions: tuple[str, ...] = BY_ANY_TASK  # the kinds by which its examples can be dealt
    has_new_head: bool = True  # not from the pretrained model, and so trained whole beside adapters
    can_distil: bool = False  # whether softmax(logits) are probabilities of classes that a smaller model can be taught

    @abstractmethod
    def claims(self, features: Features, named: Columns) -> bool:
        """Whether a data set is of this task, where ``data.task`` is left out; ``named`` are the user's columns."""

    @abstractmethod
    def find(self, features: Features, named: Columns) -> Mapping[str, str | tuple[str, ...] | None]:
        """The column or columns in each role that is filled, inferred unless they are named.

        Raises UserMistake, mostly by :func:`only`, where a column that is needed is missing or ambiguous.
        """

    def columns(self, features: Features, named: Columns) -> Columns:
        """The columns that are read; raises UserMistake for one that is missing, ambiguous or of the wrong type."""
        for role, given in named.roles.items():
            if role not in self.roles:
                raise UserMistake(
                    f"data.columns.{role}: column '{', '.join(named.every(role))}' is named, but {self.name} reads "
                    f"only {', '.join(self.roles)}"
                )
            if not isinstance(given, str) and self.roles[role].each is None:
                raise UserMistake(
                    f"data.columns.{role}: {', '.join(given)} are a list of columns; {self.name} takes one column"
                )
        found = Columns({role: name for role, name in self.find(features, named).items() if name}, named.group)
        for role, allowed in self.roles.items():
            holds = allowed.holds if found.one(role) else allowed.each
            for name in found.every(role):
                assert holds is not None
                check_type(features, f"columns.{role}", name, holds, self.name)
        return found

    def takes_images(self, columns: Columns) -> bool:
        return columns.one("image") is not None

    @abstractmethod
    def is_withheld(self, split: Dataset, columns: Columns, names: Sequence[str]) -> bool:
        """Whether a split hides what is to be predicted, as benchmarks publish their test splits."""

    def label_names(self, train: Dataset, columns: Columns) -> tuple[str, ...]:
        """The classes, in the order of the head's outputs; none for a task without classes."""
        return ()

    def writer(self, inputs: ImageInput | TextInput, settings: DataSettings) -> Writer:
        return ImageWriter(inputs) if isinstance(inputs, ImageInput) else TextWriter(inputs, settings)

    def reader(self, folder: Path, role: str, meta: dict[str, Any]) -> Reader:
        kind = ImageReader if (folder / f"{role}_pixels.npy").exists() else TextReader
        return kind(folder, role, meta)

    def full_lengths(self, columns: Columns, settings: DataSettings) -> Lengths:
        """Tokens of the longest example, which a forecast assumes of all before they are prepared; none of images."""
        return {} if self.takes_images(columns) else {"num_tokens": settings.max_length}

    def head(self, columns: Columns) -> str:
        """The end of the name of transformers' auto class: ``CausalLM`` of ``AutoModelForCausalLM``."""
        return "ImageClassification" if self.takes_images(columns) else "SequenceClassification"

    def config(self, info: DataInfo) -> dict[str, Any]:
        """What the task sets in the model's config, from which follow the head's size and its loss."""
        names = dict(enumerate(info.label_names))
        return {"num_labels": len(names), "id2label": names, "label2id": {name: i for i, name in names.items()}}

    @abstractmethod
    def predictions(self, info: DataInfo) -> tuple[str, ...]:
        """What the columns of :meth:`predict` are."""

    @abstractmethod
    def predict(self, outputs: Any, batch: Mapping[str, Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
        """A row of predictions for each row of a batch, float64 ``[B, len(predictions)]``; the first is its loss.

        ``outputs`` are the model's of ``batch``, which is ``split.batch(rows)`` on the model's device.
        """

    @abstractmethod
    def metrics(self, info: DataInfo, subset: str | None = None) -> tuple[str, ...]:
        """The metrics that are reported, the main one first; ``subset`` is ``data.subset``.

        Names take 32 bytes at most. A metric is better when higher unless ``log.LOWER_IS_BETTER`` has it.
        """

    @abstractmethod
    def score(
        self, info: DataInfo, metrics: Sequence[str], predictions: np.ndarray, split: Split, rows: np.ndarray
    ) -> dict[str, float]:
        """``loss`` and then the named metrics of the rows (int64 [N]) of a split, and what else is worth a log row.

        ``predictions`` are those of the rows, float64 ``[N, len(predictions)]``. What is undefined has a value.
        """


def find_image(features: Features, named: Columns) -> str:
    """The column of images."""
    return named.one("image") or only("image", image_columns(features), features)


def find_label(features: Features, named: Columns) -> str:
    """The column of labels."""
    return named.one("label") or only("label", label_columns(features, named.group), features)


def find_text(features: Features, named: Columns, *others: str | None) -> str:
    """The column of text, which is none of some others."""
    return named.one("text") or only("text", text_columns(features, {*others, named.group}), features)


def find_pair(features: Features, named: Columns, *others: str | None) -> dict[str, str | None]:
    """A text and, where there are two columns of text or it is named, a second one."""
    second = named.one("text_pair")
    found = text_columns(features, {*others, named.group, second})
    if second is None and named.one("text") is None and len(found) == 2:
        return {"text": found[0], "text_pair": found[1]}
    return {"text": find_text(features, named, *others, second), "text_pair": second}
