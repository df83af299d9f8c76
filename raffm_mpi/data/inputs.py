"""What a model takes, and how the examples of a data set are written down for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from raffm_mpi.data.source import Columns

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

IMAGES_PER_TASK = 32
TEXTS_PER_CALL = 1024
IMAGE_MODES = {1: "L", 3: "RGB"}  # by number of channels
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than 8 bits: PIL clips them without a word


@dataclass(frozen=True)
class ImageInput:
    """Images as a model takes them: pixels, and each channel's mean and deviation (of values in [0, 1])."""

    num_channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.num_channels not in IMAGE_MODES:
            raise ValueError(f"model: images of {self.num_channels} channels; allowed are 1 (grey) and 3 (RGB)")
        if not len(self.mean) == len(self.std) == self.num_channels:
            raise ValueError(
                f"model: images of {self.num_channels} channels need as many means and deviations, "
                f"got {self.mean} and {self.std}"
            )


@dataclass(frozen=True)
class TextInput:
    """Text as a model takes it: the tokenizer (hub name or folder) and the most tokens of an example."""

    tokenizer: str
    max_length: int


class ImageWriter:
    """Writes ``ROLE_pixels.npy``: images decoded, converted and resized, uint8 [N, C, H, W]."""

    task = "image"
    identity = ""

    def __init__(self, inputs: ImageInput) -> None:
        self._mode = IMAGE_MODES[inputs.num_channels]
        self._size = inputs.width, inputs.height
        self._shape = inputs.height, inputs.width, inputs.num_channels
        self.padding: dict[str, int] = {}

    def write(self, folder: Path, role: str, examples: Dataset, columns: Columns, where: str) -> None:
        """Decode in as many threads as this process has cores, a few tasks at a time."""
        from datasets import Image

        column = columns.image
        stored = examples.select_columns([column]).cast_column(column, Image(decode=False))
        num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

        def decode(start: int) -> np.ndarray:
            rows = stored[start : start + IMAGES_PER_TASK][column]
            return np.stack([self._pixels(raw, f"{where}, row {row}") for row, raw in enumerate(rows, start)])

        height, width, num_channels = self._shape
        path = folder / f"{role}_pixels.npy"
        with ArrayFile(path, np.uint8, (num_channels, height, width)) as file, ThreadPoolExecutor(num_threads) as pool:
            window = num_threads * IMAGES_PER_TASK
            for start in range(0, len(stored), window):
                for pixels in pool.map(decode, range(start, min(start + window, len(stored)), IMAGES_PER_TASK)):
                    file.append(pixels)

    def _pixels(self, raw: dict[str, Any] | None, where: str) -> np.ndarray:
        """One image, uint8 [C, H, W]."""
        from datasets import Image
        from PIL.Image import Resampling

        if raw is None:
            raise ValueError(f"{where}: the image is missing")
        try:
            image = Image().decode_example(raw)
            if image.mode in WIDE_MODES:
                raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
            image = image.convert(self._mode)
            if image.size != self._size:
                image = image.resize(self._size, Resampling.BILINEAR)
        except Exception as error:  # PIL's codecs raise many types
            raise ValueError(f"{where}: the image cannot be decoded: {error}") from error
        return np.asarray(image).reshape(self._shape).transpose(2, 0, 1)


class TextWriter:
    """Writes ``ROLE_offsets.npy`` (int64 [N + 1]) and, concatenated, ``ROLE_input_ids.npy`` and the like (int32)."""

    task = "text"

    def __init__(self, inputs: TextInput) -> None:
        self._tokenizer = _load_tokenizer(inputs.tokenizer)
        self._max_length = inputs.max_length
        self.identity: str = self._tokenizer.backend_tokenizer.to_str()
        padding = {"input_ids": self._tokenizer.pad_token_id, "token_type_ids": self._tokenizer.pad_token_type_id}
        self.padding = {name: pad for name, pad in padding.items() if name in self._tokenizer.model_input_names}

    def write(self, folder: Path, role: str, examples: Dataset, columns: Columns, where: str) -> None:
        """Tokenise and truncate; nothing is padded before a batch is read."""
        lengths: list[list[int]] = [[0]]
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(ArrayFile(folder / f"{role}_{name}.npy", np.int32)) for name in self.padding
            }
            for streams in self._tokens(examples, columns, where):
                for name, file in files.items():
                    file.append(np.concatenate(streams[name]))
                lengths.append([len(ids) for ids in streams["input_ids"]])
        np.save(folder / f"{role}_offsets.npy", np.cumsum(np.concatenate(lengths), dtype=np.int64))

    def _tokens(self, examples: Dataset, columns: Columns, where: str) -> Iterator[dict[str, list[list[int]]]]:
        """The streams of some examples at a time, in order."""
        names = [name for name in (columns.text, columns.text_pair) if name is not None]
        start = 0
        for texts in examples.select_columns(names).iter(batch_size=TEXTS_PER_CALL):
            for name in names:
                if None in texts[name]:
                    raise ValueError(f"{where}, row {start + texts[name].index(None)}: column '{name}' is null")
            streams = self._tokenizer(
                *(texts[name] for name in names),
                truncation=True,
                max_length=self._max_length,
                return_attention_mask=False,
            )
            if [] in streams["input_ids"]:
                raise ValueError(f"{where}, row {start + streams['input_ids'].index([])}: the text has no tokens")
            yield streams
            start += len(streams["input_ids"])


def _load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
    except Exception as error:  # the hub, the network, the disk, the file formats
        raise ValueError(f"data.tokenizer: '{name}' cannot be loaded: {' '.join(str(error).split())}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"data.tokenizer: '{name}' has no fast tokenizer (tokenizer.json), the only kind allowed")
    if tokenizer.pad_token_id is None:
        raise ValueError(f"data.tokenizer: '{name}' has no pad token; name a copy that has one")
    return tokenizer


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
