"""One bad example does not end a run: it is marked in training, and refused where it would be scored."""

from __future__ import annotations

import errno
import io
import itertools
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from made_sets import prepared
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raffm_mpi.config import DataSettings
from raffm_mpi.data import FederatedData, ImageInput, TextInput, UnreadableExample
from raffm_mpi.data import images as images_room
from raffm_mpi.errors import UserMistake

GREY = ImageInput(1, 4, 4, (0.5,), (0.25,))
BAD = 37  # the row of the bad example, in the second task of images
NUM = 40
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "dull", "and", "long"]
LONG = "a fine film and a dull film and a long film"
GOOD = {"text": ["dull"], "answer_start": [18]}


def png(image: PIL.Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write_tokenizer(folder: Path, with_special: bool) -> str:
    """A tokenizer of whole words; without special tokens an empty text has no tokens at all."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if with_special:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True)
class Case:
    """A good example, what is bad in the bad one, and the cause that is told."""

    good: dict[str, Any]
    bad: dict[str, Any]
    cause: str
    task: str = "text_classification"
    with_special: bool = True

    def write(self, folder: Path, split: str, rows: list[int]) -> Path:
        """A split of good examples but for those in ``rows``."""
        examples = [{**self.good, **(self.bad if row in rows else {})} for row in range(NUM)]
        columns = {name: [example[name] for example in examples] for name in self.good}
        made = datasets.Dataset.from_dict(columns)
        if "image" in columns:
            made = made.cast_column("image", datasets.Image())
        folder.mkdir(exist_ok=True)
        made.to_parquet(folder / f"{split}.parquet", batch_size=NUM)
        return folder

    def prepare(self, folder: Path, tmp_path: Path, seed: int = 0, **options: Any) -> FederatedData:
        target = {"target": "to"} if self.task == "seq2seq" else {}
        settings = DataSettings.model_validate(
            {
                "path": str(folder),
                "cache": str(tmp_path / "cache"),
                "task": self.task,
                "columns": target,
                "validation_fraction": 0.0,
                **options,
            }
        )
        inputs: ImageInput | TextInput = GREY
        if self.task != "image_classification":
            inputs = TextInput(write_tokenizer(tmp_path / "tok", self.with_special), 8)
        return prepared(settings, inputs, seed)


def image(bad: Any, cause: str) -> Case:
    good = {"bytes": png(PIL.Image.new("L", (4, 4), 200)), "path": None}
    bad = {"bytes": bad, "path": None} if isinstance(bad, bytes) else bad
    return Case({"image": good, "label": 0}, {"image": bad}, cause, "image_classification")


PAIR = {"one": LONG, "two": "dull", "label": 1}
QUESTION = {"question": "a film", "context": LONG, "answers": GOOD}
CASES = {
    "no image": image(b"broken", "the image cannot be decoded: its format is unknown$"),
    "half an image": image(png(PIL.Image.effect_noise((9, 9), 50))[:80], "the image cannot be decoded: "),
    "16 bits": image(png(PIL.Image.new("I;16", (4, 4))), "the image cannot be decoded: mode I;16 has more than 8 bits"),
    "lost file": image({"bytes": None, "path": "lost.png"}, "the image cannot be decoded: "),
    "null image": image(None, "the image is missing"),
    "null text": Case({"text": LONG, "label": 1}, {"text": None}, "column 'text' is null"),
    "no tokens": Case({"text": LONG, "label": 1}, {"text": ""}, "the text has no tokens", with_special=False),
    "null second text": Case(PAIR, {"two": None}, "column 'two' is null"),
    "null without tokens": Case(
        PAIR, {"one": None, "two": None}, "column '(one|two)' is null", "text_classification", False
    ),
    "null text to score": Case({"text": LONG, "label": 0.5}, {"text": None}, "column 'text' is null", "regression"),
    "null question": Case(QUESTION, {"question": None}, "column 'question' is null", "question_answering"),
    "null context": Case(QUESTION, {"context": None}, "column 'context' is null", "question_answering"),
    "null answers": Case(QUESTION, {"answers": None}, "column 'answers' is null", "question_answering"),
    "only null": Case(
        QUESTION, dict.fromkeys(QUESTION), "column 'question' is null", "question_answering", with_special=False
    ),
    "wrong answer": Case(
        QUESTION,
        {"answers": {"text": ["dull"], "answer_start": [3]}},
        "answer 'dull' is not at character 3 of the context",
        "question_answering",
    ),
    "null to continue": Case({"text": LONG}, {"text": None}, "column 'text' is null", "causal_lm"),
    "null to continue without tokens": Case(
        {"text": LONG}, {"text": None}, "column 'text' is null", "causal_lm", with_special=False
    ),
    "null source": Case({"text": LONG, "to": "fine"}, {"text": None}, "column 'text' is null", "seq2seq"),
    "empty source": Case(
        {"text": LONG, "to": "fine"}, {"text": ""}, "the text has no tokens", "seq2seq", with_special=False
    ),
    "null target": Case({"text": LONG, "to": "fine"}, {"to": None}, "column 'to' is null", "seq2seq"),
    "empty target": Case(
        {"text": LONG, "to": "fine"}, {"to": ""}, "the target has no tokens", "seq2seq", with_special=False
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_a_training_example_that_cannot_be_read_is_refused_by_its_batches_alone(case: Case, tmp_path: Path) -> None:
    train = case.prepare(case.write(tmp_path / "set", "train", [BAD]), tmp_path).train
    is_bad = train.examples == BAD
    assert is_bad.any() and np.array_equal(np.unique(train.examples), np.arange(NUM))
    sentence = f"^data.path: split 'train', row {BAD}: {case.cause}"
    for row in np.flatnonzero(is_bad):
        for rows in ([row], [0, row, 1], list(range(len(train)))):
            with pytest.raises(UnreadableExample, match=sentence):
                train.batch(np.array(rows))
    batch = train.batch(np.flatnonzero(~is_bad))
    alike = {name: tensor[: len(batch[name]) // (NUM - 1)] for name, tensor in batch.items()}
    assert all(torch.equal(tensor, torch.cat([alike[name]] * (NUM - 1))) for name, tensor in batch.items())


def test_a_scored_example_that_cannot_be_read_is_refused_at_preparation(case: Case, tmp_path: Path) -> None:
    folder = case.write(tmp_path / "set", "train", [])
    for split in ("validation", "test"):
        case.write(folder, split, [BAD])
        options = {"test_split": "test"} if split == "test" else {}
        if case.bad == {"to": None} and split == "test":
            continue  # a test split whose targets are null is withheld
        with pytest.raises(UserMistake, match=f"^data.path: split '{split}', row {BAD}: {case.cause}") as caught:
            case.prepare(folder, tmp_path, **options)
        assert not isinstance(caught.value, UnreadableExample)
        assert list((tmp_path / "cache").iterdir()) == []
        (folder / f"{split}.parquet").unlink()
        shutil.rmtree(tmp_path / "hf", ignore_errors=True)


def test_examples_that_cannot_be_read_are_never_held_out(case: Case, tmp_path: Path) -> None:
    bad = [3, BAD, 30, 31]
    folder = case.write(tmp_path / "set", "train", bad)
    for seed in range(3):
        data = case.prepare(folder, tmp_path, seed, validation_fraction=0.8)
        assert data.validation is not None
        held = np.unique(data.validation.examples)
        assert len(held) == round(0.8 * (NUM - len(bad))) and not set(held) & set(bad)
        data.validation.batch(np.arange(len(data.validation)))
        for row in np.flatnonzero(np.isin(data.train.examples, bad)):
            sentence = f"row {data.train.examples[row]}: {case.cause}"
            with pytest.raises(UnreadableExample, match=sentence):
                data.train.batch(np.array([row]))


def test_more_than_a_tenth_that_cannot_be_read_is_a_wrong_column(case: Case, tmp_path: Path) -> None:
    bad = [9, 3, BAD, 30]
    case.prepare(case.write(tmp_path / "tenth", "train", bad), tmp_path)
    sentence = (
        "^data.path: split 'train': at least 5 of 40 examples cannot be read, more than 10%; "
        f"the first is row 3: {case.cause}"
    )
    with pytest.raises(UserMistake, match=sentence) as caught:
        case.prepare(case.write(tmp_path / "more", "train", [*bad, 35, 36]), tmp_path)
    assert not isinstance(caught.value, UnreadableExample)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_readable_examples_leave_no_mark(tmp_path: Path) -> None:
    case = CASES["null text"]
    folder = case.write(tmp_path / "set", "train", [])
    case.prepare(case.write(folder, "test", []), tmp_path)
    assert not list((tmp_path / "cache").rglob("*unreadable*"))


@pytest.mark.parametrize("make", [lambda: OSError(errno.EMFILE, "Too many open files"), MemoryError])
def test_a_fault_of_the_machine_is_not_remembered_as_one_of_an_image(
    make: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise make()

    case = CASES["no image"]
    folder = case.write(tmp_path / "set", "train", [])
    with monkeypatch.context() as patched:
        patched.setattr(datasets.Image, "decode_example", fail)
        with pytest.raises((UserMistake, MemoryError)) as caught:
            case.prepare(folder, tmp_path)
    assert isinstance(caught.value, MemoryError) or re.match(
        r"data.cache: '.*' cannot be filled: .*Too many", str(caught.value)
    )
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_first_cause_is_told_whichever_thread_is_faster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = itertools.count()

    def slow_at_first(self: object, raw: object) -> None:
        time.sleep(0.05 * (next(calls) == 0))
        raise UnreadableExample("broken")

    monkeypatch.setattr(images_room, "IMAGES_PER_TASK", 10)
    monkeypatch.setattr(images_room.ImageWriter, "_pixels", slow_at_first)
    case = CASES["no image"]
    with pytest.raises(UserMistake, match=r"at least 5 of 40 examples cannot be read, .* the first is row 0: "):
        case.prepare(case.write(tmp_path / "set", "train", []), tmp_path)
