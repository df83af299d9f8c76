"""The fingerprint of prepared examples: equal wherever they lie, another as soon as anything that is read differs."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
from made_sets import prepared
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raffm_mpi.config import DataSettings
from raffm_mpi.data import FederatedData, ImageInput, TextInput, open_data
from raffm_mpi.data import cache as cache_room
from raffm_mpi.data import fingerprint as fingerprint_room
from raffm_mpi.tasks import TASKS

GREY = ImageInput(1, 4, 4, (0.5,), (0.25,))
WORDS = ["[PAD]", "[UNK]", "a", "fine", "film", "dull", "and", "long"]
PIXELS = np.random.default_rng(0).integers(256, size=(20, 4, 4), dtype=np.uint8)
ANSWER = {"text": ["dull"], "answer_start": [0]}

Columns = dict[str, list[Any]]
TEXTS: Columns = {"text": [f"{word} film" for word in WORDS[2:]] * 4, "label": ["x", "y"] * 12}
SCORES: Columns = {"text": TEXTS["text"], "label": [0.5, 1.0] * 12}
QUESTIONS: Columns = {"question": ["a"] * 20, "context": ["dull film and a long film"] * 20, "answers": [ANSWER] * 20}
PAIRS: Columns = {"text": TEXTS["text"], "to": TEXTS["text"][::-1]}
USERS: Columns = {**TEXTS, "user": ["u", "v", "v"] * 8}


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


IMAGES: Columns = {"image": [png(pixels) for pixels in PIXELS], "label": ["x", "y"] * 10}


def fingerprint(
    place: Path, train: Mapping[str, list[Any]], inputs: ImageInput | int = 8, seed: int = 0, **options: Any
) -> str:
    """Write a data set, its tokenizer and its cache below ``place``; ``inputs`` is an image's or the longest text."""
    return read(place, {"train": train}, inputs, seed, **options).fingerprint


def read(
    place: Path,
    splits: Mapping[str, Mapping[str, list[Any]]],
    inputs: ImageInput | int = 8,
    seed: int = 0,
    **options: Any,
) -> FederatedData:
    for split, columns in splits.items():
        made = datasets.Dataset.from_dict(dict(columns))
        if "image" in columns:
            made = made.cast_column("image", datasets.Image())
        (place / "set").mkdir(parents=True, exist_ok=True)
        made.to_parquet(place / "set" / f"{split}.parquet")
    if isinstance(inputs, int):
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
        fast.save_pretrained(place / "tok")
    text = TextInput(str(place / "tok"), inputs) if isinstance(inputs, int) else inputs
    where = {"path": str(place / "set"), "cache": str(place / "cache")}
    settings = DataSettings.model_validate({**where, **options})
    return prepared(settings, text, seed)


def changed(columns: Columns, name: str, row: int, value: Any) -> Columns:
    return {**columns, name: [*columns[name][:row], value, *columns[name][row + 1 :]]}


def one_pixel_off() -> bytes:
    pixels = PIXELS[7].copy()
    pixels[2, 1] ^= 1
    return png(pixels)


KINDS: dict[str, tuple[Columns, dict[str, Any]]] = {
    "images": (IMAGES, {"inputs": GREY}),
    "texts": (TEXTS, {}),
    "numbers": (SCORES, {}),
    "questions": (QUESTIONS, {}),
    "text to text": (PAIRS, {"columns": {"target": "to"}}),
    "texts to continue": ({"text": TEXTS["text"]}, {}),
    "groups": (USERS, {"partition": {"kind": "by_column", "column": "user"}}),
}
CHANGES: dict[str, tuple[str, Callable[[Columns], Columns]]] = {
    "a pixel": ("images", lambda c: changed(c, "image", 7, one_pixel_off())),
    "the label of an image": ("images", lambda c: changed(c, "label", 7, "x")),
    "the order of images": ("images", lambda c: {name: values[2:] + values[:2] for name, values in c.items()}),
    "an image fewer": ("images", lambda c: {name: values[:-1] for name, values in c.items()}),
    "an image that cannot be read": ("images", lambda c: changed(c, "image", 7, b"broken")),
    "a token": ("texts", lambda c: changed(c, "text", 3, "a dull film")),
    "the name of a class": ("texts", lambda c: {**c, "label": ["x", "z"] * 12}),
    "a number": ("numbers", lambda c: changed(c, "label", 5, 1.0000001)),
    "an answer": ("questions", lambda c: changed(c, "answers", 5, {"text": ["film"], "answer_start": [5]})),
    "one more right answer": (
        "questions",
        lambda c: changed(c, "answers", 5, {"text": ["dull", "film"], "answer_start": [0, 5]}),
    ),
    "a target": ("text to text", lambda c: changed(c, "to", 5, "long")),
    "a text that is left out": ("texts to continue", lambda c: {"text": ["a", *c["text"]]}),
    "a group": ("groups", lambda c: changed(c, "user", 5, "u")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_the_same_examples_have_the_same_fingerprint_at_any_path(kind: str, fraction: float, tmp_path: Path) -> None:
    columns, options = KINDS[kind]
    found = [
        fingerprint(tmp_path / place, columns, validation_fraction=fraction, **options) for place in ("here", "there/x")
    ]
    assert found[0] == found[1] and len(found[0]) == 64 and int(found[0], 16)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_read_differently_has_another_fingerprint(change: str, tmp_path: Path) -> None:
    kind, make = CHANGES[change]
    columns, options = KINDS[kind]
    found = [
        fingerprint(tmp_path / place, made, validation_fraction=0.0, **options)
        for place, made in (("before", columns), ("after", make(columns)))
    ]
    assert found[0] != found[1]


def test_seed_and_fraction_of_the_held_out_split_are_in_the_fingerprint(tmp_path: Path) -> None:
    held_out = [(0, 0.2), (1, 0.2), (0, 0.3), (0, 0.0)]
    found = {
        place: [
            fingerprint(tmp_path / place, IMAGES, GREY, seed, validation_fraction=fraction)
            for seed, fraction in held_out
        ]
        for place in ("a", "b")
    }
    assert found["a"] == found["b"] and len(set(found["a"])) == len(held_out)


def test_every_split_and_its_role_are_in_the_fingerprint(tmp_path: Path) -> None:
    other = changed(IMAGES, "label", 0, "y")
    found = [
        read(tmp_path / f"{place}", splits, GREY, validation_fraction=0.0).fingerprint
        for place, splits in enumerate(
            [
                {"train": IMAGES},
                {"train": IMAGES, "validation": IMAGES},
                {"train": IMAGES, "test": IMAGES},
                {"train": IMAGES, "test": other},
            ]
        )
    ]
    assert len(set(found)) == len(found)


def test_what_pixels_mean_is_in_the_fingerprint(tmp_path: Path) -> None:
    inputs = [GREY, ImageInput(1, 4, 4, (0.4,), (0.25,)), ImageInput(1, 4, 4, (0.5,), (0.3,))]
    found = [fingerprint(tmp_path, IMAGES, given, validation_fraction=0.0) for given in inputs]
    assert len(set(found)) == 3


def test_an_example_that_cannot_be_read_is_not_a_black_one(tmp_path: Path) -> None:
    bad, black = b"broken", png(np.zeros((4, 4), np.uint8))
    found = [
        fingerprint(tmp_path / place, changed(IMAGES, "image", 3, value), GREY, validation_fraction=0.0)
        for place, value in (("bad", bad), ("again", bad), ("null", None), ("black", black))
    ]
    assert found[0] == found[1] == found[2] != found[3]  # why it cannot be read may depend on the place


def test_stored_examples_are_hashed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashed = []

    def count(path: Path) -> str:
        hashed.append(path.name)
        return "x"

    monkeypatch.setattr(fingerprint_room, "file_sha256", count)
    for seed, fraction in ((0, 0.2), (0, 0.2), (1, 0.2), (0, 0.0)):
        settings = DataSettings(path="digits", cache=str(tmp_path / "cache"), validation_fraction=fraction)
        prepared(settings, GREY, seed)
    stored = [f"{split}_{stream}.npy" for split in ("test", "train") for stream in ("labels", "pixels")]
    assert hashed == [*stored, "validation_examples.npy", "validation_examples.npy"]


def test_a_format_that_is_read_otherwise_has_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [fingerprint(tmp_path, IMAGES, GREY)]
    monkeypatch.setattr(cache_room, "FORMAT_VERSION", cache_room.FORMAT_VERSION + 1)
    assert fingerprint(tmp_path, IMAGES, GREY) != found[0]


def test_a_cache_that_is_moved_keeps_its_fingerprint(tmp_path: Path) -> None:
    before = fingerprint(tmp_path, IMAGES, GREY, validation_fraction=0.2)
    shutil.move(tmp_path / "cache", tmp_path / "moved")
    (held_out,) = (tmp_path / "moved").glob("*/held_out-*")
    assert open_data(held_out, TASKS["image_classification"]).fingerprint == before
