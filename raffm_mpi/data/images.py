"""Images: decoded and resized once, normalised when they are read."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raffm_mpi.data.columns import Columns
from raffm_mpi.data.formats import ArrayFile, Reader, Writer, label_tensor, open_array
from raffm_mpi.data.inputs import IMAGE_MODES, ImageInput
from raffm_mpi.data.unreadable import Unreadable, UnreadableExample

if TYPE_CHECKING:
    from datasets import Dataset

IMAGES_PER_TASK = 32
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than 8 bits: PIL clips them without a word
MACHINE_FAULTS = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)  # no image's; they may pass


class ImageWriter(Writer):
    """Writes ``ROLE_pixels.npy``: images decoded, converted and resized, uint8 [N, C, H, W]; zeros for none."""

    def __init__(self, inputs: ImageInput) -> None:
        self._mode = IMAGE_MODES[inputs.num_channels]
        self._size = inputs.width, inputs.height
        self._shape = inputs.num_channels, inputs.height, inputs.width
        self.identity: list[Any] = []
        self.padding: dict[str, int] = {}

    def write(self, folder: Path, role: str, examples: Dataset, columns: Columns, unreadable: Unreadable) -> None:
        """Decode in as many threads as this process has cores, a few tasks at a time."""
        from datasets import Image

        column = columns.of("image")
        stored = examples.select_columns([column]).cast_column(column, Image(decode=False))
        num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

        def decode(start: int) -> tuple[np.ndarray, dict[int, str]]:
            images = stored[start : start + IMAGES_PER_TASK][column]
            pixels, causes = np.zeros((len(images), *self._shape), dtype=np.uint8), {}
            for place, raw in enumerate(images):
                try:
                    pixels[place] = self._pixels(raw)
                except UnreadableExample as error:
                    causes[start + place] = str(error)
            return pixels, causes

        path = folder / f"{role}_pixels.npy"
        with ArrayFile(path, np.uint8, self._shape) as file, ThreadPoolExecutor(num_threads) as pool:
            window = num_threads * IMAGES_PER_TASK
            for start in range(0, len(stored), window):
                starts = range(start, min(start + window, len(stored)), IMAGES_PER_TASK)
                for pixels, causes in pool.map(decode, starts):
                    for row, cause in causes.items():
                        unreadable.mark(row, cause)
                    file.append(pixels)

    def _pixels(self, raw: dict[str, Any] | None) -> np.ndarray:
        """One image, uint8 [C, H, W]; raises UnreadableExample with the cause where it cannot be read."""
        from datasets import Image
        from PIL import UnidentifiedImageError
        from PIL.Image import Resampling

        if raw is None:
            raise UnreadableExample("the image is missing")
        try:
            image = Image().decode_example(raw)
            if image.mode in WIDE_MODES:
                raise UnreadableExample(f"mode {image.mode} has more than 8 bits a channel")
            image = image.convert(self._mode)
            if image.size != self._size:
                image = image.resize(self._size, Resampling.BILINEAR)
        except UnidentifiedImageError as error:  # says where in memory it looked, which is another place each time
            raise UnreadableExample("the image cannot be decoded: its format is unknown") from error
        except Exception as error:  # PIL's codecs raise many types
            if isinstance(error, MemoryError) or getattr(error, "errno", None) in MACHINE_FAULTS:
                raise
            raise UnreadableExample(f"the image cannot be decoded: {error}") from error
        return np.asarray(image).reshape(*self._shape[1:], -1).transpose(2, 0, 1)


class ImageReader(Reader):
    """Stored images, uint8 [N, C, H, W], normalised when they are read."""

    def __init__(self, folder: Path, role: str, meta: dict[str, Any]) -> None:
        mean, std = meta["inputs"]["mean"], meta["inputs"]["std"]
        self._pixels = open_array(folder / f"{role}_pixels.npy")
        self._labels = open_array(folder / f"{role}_labels.npy")
        self._scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        # Two roundings, never a fused one: a pixel's bits do not depend on its place in the batch.
        pixels = torch.from_numpy(self._pixels[rows]).float().mul_(self._scale).add_(self._shift)
        return {"pixel_values": pixels, "labels": label_tensor(self._labels[rows])}
