"""How examples are stored: what a task says of it, writers and readers, and the array file that both know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raffm_mpi.config import DataSettings
from raffm_mpi.data.columns import Columns
from raffm_mpi.data.inputs import ImageInput, TextInput
from raffm_mpi.data.unreadable import Unreadable

if TYPE_CHECKING:
    from datasets import Dataset


class Format(ABC):
    """What this room knows of a task: how its examples are stored, and by which classes they are dealt."""

    name: str

    @abstractmethod
    def takes_images(self, columns: Columns) -> bool:
        """Whether an example is an image; else it is text."""

    @abstractmethod
    def writer(self, inputs: ImageInput | TextInput, settings: DataSettings) -> Writer:
        """What writes the examples as a model takes them; ``inputs`` are images where the task takes images."""

    @abstractmethod
    def reader(self, folder: Path, role: str, meta: dict[str, Any]) -> Reader:
        """What reads the rows of the split ``role``, which :meth:`writer` wrote to ``folder``."""

    def labels(self, split: Dataset, columns: Columns, names: Sequence[str], where: str) -> np.ndarray:
        """The label of every example, ``[N]`` or ``[N, K]``; zeros (int64 [N]) for a task whose examples have none.

        ``names`` are the classes. Raises UserMistake, which begins with ``where`` and names the row, for a label that
        is none.
        """
        return np.zeros(len(split), dtype=np.int64)

    def classes(self, labels: np.ndarray, train_labels: np.ndarray) -> np.ndarray:
        """The class by which each example is dealt to clients and held out, int64 [N]; all zeros for no classes.

        ``train_labels`` are of the whole training split; both are of :meth:`labels`.
        """
        return np.zeros(len(labels), dtype=np.int64)


class Writer(ABC):
    """Writes the examples of a split once; ``identity`` is what its files depend on beside the data set.

    ``padding`` is the value that fills up each stream of a batch. A writer that makes several rows or none of an
    example also writes ``ROLE_examples.npy``: the example of each row, ascending, int64 [N].
    """

    identity: list[Any]
    padding: dict[str, int]

    @abstractmethod
    def write(self, folder: Path, role: str, examples: Dataset, columns: Columns, unreadable: Unreadable) -> None:
        """Write the files of one split; an example that cannot be read is marked, and anything stands in for it.

        Raises UserMistake naming the row of what cannot be used.
        """


class Reader(ABC):
    """Reads the rows of a split (int64 [B]) from its folder; ``meta`` is what :func:`prepare` wrote down there."""

    @abstractmethod
    def __init__(self, folder: Path, role: str, meta: dict[str, Any]) -> None: ...

    @abstractmethod
    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The rows as a transformer takes them, with what is to be learned."""

    def mean_length(self, rows: np.ndarray) -> float:
        """Mean number of tokens of a row, 0.0 for images."""
        return 0.0

    def mean_target_length(self, rows: np.ndarray) -> float:
        """Mean number of tokens of a row's target, 0.0 where it has none."""
        return 0.0

    def truth(self, rows: np.ndarray, examples: np.ndarray) -> Any:
        """What predictions of the rows are scored by, beside labels; ``examples`` is of which each row was made."""
        return None


def label_tensor(labels: np.ndarray) -> torch.Tensor:
    """Classes (int64) as they are, anything else as float32: what the losses of transformers take."""
    tensor = torch.from_numpy(labels)
    return tensor if tensor.dtype == torch.int64 else tensor.float()


def open_array(path: Path) -> np.ndarray:
    """The array of a file, memory-mapped, as a plain array (indexing ``np.memmap`` itself is slower)."""
    mapped: np.ndarray = np.load(path, mmap_mode="r").view(np.ndarray)
    return mapped


class ArrayFile:
    """A ``.npy`` file that grows by its first axis; plain writes, so that a full disk is an error and not a SIGBUS."""

    def __init__(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...] = ()) -> None:
        self._file = path.open("wb")
        self._dtype = np.dtype(dtype)
        self._shape = shape
        self._length = 0
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        array = np.ascontiguousarray(values, dtype=self._dtype)
        self._file.write(array.data)
        self._length += len(array)

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._write_header()

    def _write_header(self) -> None:
        """NumPy pads the header for the first axis to grow, so writing it again keeps its size."""
        self._file.seek(0)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self._length, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
