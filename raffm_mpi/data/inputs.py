"""What a model takes: images of one size, or tokens."""

from __future__ import annotations

from dataclasses import dataclass

from raffm_mpi.errors import UserMistake

IMAGE_MODES = {1: "L", 3: "RGB"}  # by number of channels


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
            raise UserMistake(f"model: images of {self.num_channels} channels; allowed are 1 (grey) and 3 (RGB)")
        if not len(self.mean) == len(self.std) == self.num_channels:
            raise UserMistake(
                f"model: images of {self.num_channels} channels need as many means and deviations, "
                f"got {self.mean} and {self.std}"
            )


@dataclass(frozen=True)
class TextInput:
    """Text as a model takes it: the tokenizer (hub name or folder) and the most tokens of an example."""

    tokenizer: str
    max_length: int
