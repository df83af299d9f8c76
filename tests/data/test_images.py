"""Images: what is stored of them and what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from made_sets import (
    PIXELS,
    prepared,
    settings_for,
    write_images,
)

from raffm_mpi.data import ImageInput
from raffm_mpi.tasks import inspect


def test_digits_are_embedded(tmp_path: Path) -> None:
    info = inspect(settings_for("digits", tmp_path))
    assert info.task == "image_classification" and info.label_names == tuple("0123456789") and info.num_classes == 10
    assert [(split.role, split.num_examples) for split in info.splits] == [("train", 1437), ("test", 360)]


def test_digits_keep_their_pixels(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = prepared(settings_for("digits", tmp_path, validation_fraction=0), ImageInput(1, 8, 8, (0.0,), (1.0,)))
    assert data.test is not None
    ours = [split.batch(np.arange(len(split)))["pixel_values"].flatten(1) for split in (data.train, data.test)]
    ours_sorted = np.unique((torch.cat(ours) * 16).round().numpy(), axis=0)
    assert np.array_equal(ours_sorted, np.unique(load_digits().data, axis=0))
    assert np.abs(np.bincount(data.test.labels) / 360 - np.bincount(data.train.labels) / 1437).max() < 0.005


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 7), (4, 9)])
def test_images_are_converted_resized_and_normalised(num_channels: int, size: tuple[int, int], tmp_path: Path) -> None:
    mean, std = (0.1, 0.2, 0.3)[:num_channels], (0.4, 0.5, 0.6)[:num_channels]
    settings = settings_for(write_images(tmp_path / "set"), tmp_path, validation_fraction=0)
    data = prepared(settings, ImageInput(num_channels, *size, mean, std))
    rows = np.array([7, 0, 7, 11])
    batch = data.train.batch(rows)
    assert batch.keys() == {"pixel_values", "labels"}
    for row, pixels in zip(rows, batch["pixel_values"], strict=True):
        image = PIL.Image.fromarray(PIXELS[row]).convert("L" if num_channels == 1 else "RGB")
        image = image.resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.array(image).reshape(*size, num_channels)).permute(2, 0, 1) / 255
        expected = (expected - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
        torch.testing.assert_close(pixels, expected, rtol=1e-5, atol=1e-6)
    assert batch["labels"].tolist() == [1, 0, 1, 1] and batch["labels"].dtype == torch.int64
    assert data.train.mean_length == 0.0 and data.pad_token_id is None


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    settings = settings_for(write_images(tmp_path / "set", pixels=PIXELS[..., 0]), tmp_path)
    pixels = prepared(settings, ImageInput(3, 5, 7, (0.0,) * 3, (1.0,) * 3)).train.batch(np.arange(3))["pixel_values"]
    assert torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])


def test_many_images_stay_in_order(tmp_path: Path) -> None:
    pixels = np.zeros((300, 2, 2), dtype=np.uint8) + (np.arange(300) % 251).astype(np.uint8)[:, None, None]
    settings = settings_for(write_images(tmp_path / "set", pixels=pixels), tmp_path, validation_fraction=0)
    read = prepared(settings, ImageInput(1, 2, 2, (0.0,), (1.0,))).train.batch(np.arange(300))["pixel_values"]
    assert torch.equal((read * 255).round().to(torch.uint8).squeeze(1), torch.from_numpy(pixels))


def test_the_bits_of_an_image_do_not_depend_on_its_batch(tmp_path: Path) -> None:
    train = prepared(settings_for("digits", tmp_path), ImageInput(1, 7, 9, (0.3,), (0.7,))).train
    together = train.batch(np.arange(67))["pixel_values"]
    alone = torch.cat([train.batch(np.array([row]))["pixel_values"] for row in range(67)])
    assert torch.equal(together, alone)
