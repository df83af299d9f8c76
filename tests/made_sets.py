"""Small data sets, tokenizers and what is prepared of them, for the tests of data and tasks."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raffm_mpi import data
from raffm_mpi.config import DataSettings
from raffm_mpi.data import DataInfo, FederatedData, ImageInput, TextInput
from raffm_mpi.tasks import inspect, task_of

GREY = ImageInput(1, 8, 8, (0.5,), (0.25,))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "dull", "and", "long"]
PIXELS = np.random.default_rng(0).integers(256, size=(12, 5, 7, 3), dtype=np.uint8)
STREAMS = ["input_ids", "token_type_ids", "attention_mask"]


@pytest.fixture(autouse=True)
def no_traces_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Data sets are built below the test's own folder, without progress bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    was_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    yield
    if not was_disabled:
        datasets.enable_progress_bars()


def settings_for(folder: Path | str, tmp_path: Path, **options: Any) -> DataSettings:
    return DataSettings.model_validate({"path": str(folder), "cache": str(tmp_path / "cache"), **options})


def png(image: PIL.Image.Image | np.ndarray) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, split: str, columns: Mapping[str, Any], **features: Any) -> Path:
    """One Parquet file; features that are not named are guessed from the values."""
    examples = datasets.Dataset.from_dict(dict(columns))
    for name, feature in features.items():
        examples = examples.cast_column(name, feature)
    folder.mkdir(exist_ok=True, parents=True)
    examples.to_parquet(folder / f"{split}.parquet")
    return folder


def write_images(folder: Path, split: str = "train", pixels: Any = PIXELS) -> Path:
    features = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    images = [png(array) for array in pixels]
    return write(folder, split, {"picture": images, "label": [0, 1] * (len(pixels) // 2)}, **features)


def write_texts(folder: Path, split: str = "train", **columns: list[Any]) -> Path:
    texts = ["a fine film", "dull", "long and dull film", "fine"] * 5
    return write(folder, split, columns or {"sentence": texts, "label": ["good", "bad", "bad", "good"] * 5})


def write_tokenizer(folder: Path, words: list[str] = WORDS, **options: Any) -> str:
    """A BERT-like tokenizer of whole words."""
    post = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return _save_tokenizer(folder, words, post, **{"pad_token": "[PAD]", "unk_token": "[UNK]", **options})


def write_plain_tokenizer(folder: Path, ending: str = "[CLS] $A [SEP]", **options: Any) -> str:
    """A tokenizer of whole words that adds what ``ending`` says; as of T5 with "$A [SEP]", as of GPT-2 with "$A"."""
    special = [(word, i) for i, word in enumerate(WORDS[:4]) if word in ending]
    post = processors.TemplateProcessing(single=ending, pair=ending.replace("$A", "$A $B"), special_tokens=special)
    options = {"pad_token": "[PAD]", "eos_token": "[SEP]", "unk_token": "[UNK]", **options}
    return _save_tokenizer(folder, WORDS, post, **options)


def _save_tokenizer(folder: Path, words: list[str], post: Any, **options: Any) -> str:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = post
    options = {"model_input_names": STREAMS, **options}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)
    return str(folder)


def prepare(info: DataInfo, settings: DataSettings, inputs: ImageInput | TextInput, seed: int) -> Path:
    return data.prepare(info, task_of(info.task), settings, inputs, seed)


def prepared(settings: DataSettings, inputs: ImageInput | TextInput, seed: int = 0) -> FederatedData:
    info = inspect(settings)
    return data.open_data(prepare(info, settings, inputs, seed), task_of(info.task))


def roles(info: DataInfo) -> dict[str, str]:
    return {split.role: split.name for split in info.splits}
