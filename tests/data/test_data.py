"""From a published data set to batches: what is found, what is stored, what is read, and what is refused."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raffm_mpi.config import DataSettings
from raffm_mpi.data import DataInfo, FederatedData, ImageInput, TextInput, inspect, open_data, prepare
from raffm_mpi.data import cache as cache_room
from raffm_mpi.errors import UserMistake

GREY = ImageInput(1, 8, 8, (0.5,), (0.25,))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "dull", "and", "long"]
PIXELS = np.random.default_rng(0).integers(256, size=(12, 5, 7, 3), dtype=np.uint8)


def settings_for(folder: Path | str, tmp_path: Path, **options: Any) -> DataSettings:
    return DataSettings.model_validate({"path": str(folder), "cache": str(tmp_path / "cache"), **options})


def png(image: PIL.Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, split: str, columns: Mapping[str, Any], **features: Any) -> Path:
    """One Parquet file; features that are not named are guessed from the values."""
    examples = datasets.Dataset.from_dict(dict(columns))
    for name, feature in features.items():
        examples = examples.cast_column(name, feature)
    folder.mkdir(exist_ok=True)
    examples.to_parquet(folder / f"{split}.parquet")
    return folder


def write_images(folder: Path, split: str = "train", pixels: Any = PIXELS) -> Path:
    features = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    images = [png(PIL.Image.fromarray(array)) for array in pixels]
    return write(folder, split, {"picture": images, "label": [0, 1] * (len(pixels) // 2)}, **features)


def write_texts(folder: Path, split: str = "train", **columns: list[Any]) -> Path:
    texts = ["a fine film", "dull", "long and dull film", "fine"] * 5
    return write(folder, split, columns or {"sentence": texts, "label": ["good", "bad", "bad", "good"] * 5})


def write_tokenizer(folder: Path, words: list[str] = WORDS, **options: Any) -> str:
    """A BERT-like tokenizer of whole words."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    streams = ["input_ids", "token_type_ids", "attention_mask"]
    options = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_input_names": streams, **options}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)
    return str(folder)


def prepared(settings: DataSettings, inputs: ImageInput | TextInput, seed: int = 0) -> FederatedData:
    return open_data(prepare(inspect(settings), settings, inputs, seed))


# --- inspect -----------------------------------------------------------------------------------------------------


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


def test_info_is_small_and_can_be_sent(tmp_path: Path) -> None:
    info = inspect(settings_for(write_images(tmp_path / "set"), tmp_path))
    assert pickle.loads(pickle.dumps(info)) == info
    assert len(pickle.dumps(info)) < 2000


def test_inspect_decodes_no_example(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"image": [b"broken"], "label": ["a"]}, image=datasets.Image())
    assert inspect(settings_for(folder, tmp_path)).columns.image == "image"


ONE = datasets.ClassLabel(names=["x"])
COLUMNS: dict[str, tuple[dict[str, list[Any]], dict[str, Any], dict[str, Any], tuple[str, str | None, str]]] = {
    "single sentence": ({"idx": [0], "guid": ["g"], "review": ["a"], "label": [0]}, {}, {}, ("review", None, "label")),
    "pair in order": (
        {"premise": ["a"], "hypothesis": ["b"], "labels": [0]},
        {},
        {},
        ("premise", "hypothesis", "labels"),
    ),
    "string label": ({"text": ["a"], "Label": ["x"]}, {}, {}, ("text", None, "Label")),
    "class label": ({"text": ["a"], "topic": [0], "class": [1]}, {"topic": ONE}, {}, ("text", None, "topic")),
    "label-like name": ({"text": ["a"], "target": [True]}, {}, {}, ("text", None, "target")),
    "one text by name": ({"title": ["a"], "body": ["b"], "label": [0]}, {}, {"text": "body"}, ("body", None, "label")),
    "pair by name": (
        {"title": ["a"], "body": ["b"], "label": [0]},
        {},
        {"text": "body", "text_pair": "title"},
        ("body", "title", "label"),
    ),
    "rest of a pair": (
        {"title": ["a"], "body": ["b"], "label": [0]},
        {},
        {"text_pair": "title"},
        ("body", "title", "label"),
    ),
    "label by name": (
        {"text": ["a"], "fine": [0], "coarse": [0]},
        {"fine": ONE, "coarse": ONE},
        {"label": "coarse"},
        ("text", None, "coarse"),
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_text_columns_are_inferred_unless_named(case: str, tmp_path: Path) -> None:
    columns, features, named, expected = COLUMNS[case]
    folder = write(tmp_path / "set", "train", columns, **features)
    found = inspect(settings_for(folder, tmp_path, columns=named)).columns
    assert (found.text, found.text_pair, found.label) == expected and found.image is None


def test_an_image_column_is_preferred_to_text_unless_text_is_named(tmp_path: Path) -> None:
    columns = {"pixels": [b"not decoded"], "caption": ["a"], "label": [0]}
    folder = write(tmp_path / "set", "train", columns, pixels=datasets.Image())
    assert inspect(settings_for(folder, tmp_path)).columns.image == "pixels"
    assert inspect(settings_for(folder, tmp_path, columns={"text": "caption"})).task == "text_classification"


def test_the_group_column_is_neither_text_nor_label(tmp_path: Path) -> None:
    people = datasets.ClassLabel(names=["ann"])
    columns = {"text": ["a"], "user": [0], "writer": ["w"], "topic": [0]}
    folder = write(tmp_path / "set", "train", columns, user=people, topic=ONE)
    for group, others in (("user", ["writer"]), ("writer", ["user"])):
        named = {"text": "text"} if others == ["writer"] else {"label": "topic"}
        partition = {"kind": "by_column", "column": group}
        found = inspect(settings_for(folder, tmp_path, partition=partition, columns=named)).columns
        assert (found.text, found.label, found.group) == ("text", "topic", group)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["pos", "neg", "neg"], ("neg", "pos")),
        ([10, 9, -1], ("-1", "9", "10")),
        ([True, False, True], ("false", "true")),
    ],
)
def test_plain_labels_are_numbered_in_the_order_of_their_values(
    values: list[Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    folder = write(tmp_path / "set", "train", {"text": ["a"] * 3, "label": values})
    settings = settings_for(folder, tmp_path, validation_fraction=0)
    assert inspect(settings).label_names == names
    labels = prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8)).train.labels
    assert [names[label] for label in labels] == [str(value).lower() for value in values]


def roles(info: DataInfo) -> dict[str, str]:
    return {split.role: split.name for split in info.splits}


def test_splits_are_found_by_their_names(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "set")
    for split in ("validation", "test", "extra"):
        write_texts(folder, split)
    names = {split: [f"{split}.parquet"] for split in ("train", "validation", "test", "extra")}
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {files[0]}\n" for split, files in names.items())
        + "---\n"
    )
    assert roles(inspect(settings_for(folder, tmp_path))) == {
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
    named = settings_for(folder, tmp_path, train_split="extra", validation_split="train", test_split="validation")
    assert roles(inspect(named)) == {"train": "extra", "validation": "train", "test": "validation"}
    borrowed = settings_for(folder, tmp_path, validation_split="test")
    assert roles(inspect(borrowed)) == {"train": "train", "validation": "test"}


@pytest.mark.parametrize("hidden", [-1, None])
def test_a_test_split_with_withheld_labels_is_left_out(hidden: int | None, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["no", "yes"])
    folder = write(tmp_path / "set", "train", {"text": ["a", "b"], "label": [0, 1]}, label=names)
    write(folder, "test", {"text": ["a", "b"], "label": [hidden, hidden]}, label=datasets.Value("int64"))
    examples = datasets.Dataset.from_parquet(str(folder / "test.parquet"), cache_dir=str(tmp_path / "hf2"))
    examples.cast_column("label", names).to_parquet(folder / "test.parquet")
    assert roles(inspect(settings_for(folder, tmp_path))) == {"train": "train"}
    with pytest.raises(UserMistake, match=r"data.test_split: the labels of split 'test' are withheld$"):
        inspect(settings_for(folder, tmp_path, test_split="test"))


# --- prepare and read: images ------------------------------------------------------------------------------------


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


# --- prepare and read: text --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [False, True])
def test_text_is_read_as_the_tokenizer_pads_it(pair: bool, tmp_path: Path) -> None:
    first, second = ["a fine film", "dull", "and long and dull and long"], ["long and dull", "fine", "film"]
    columns = {"one": first, **({"two": second} if pair else {}), "label": [0, 1, 0]}
    name = write_tokenizer(tmp_path / "tok", [*WORDS[1:4], "[PAD]", *WORDS[4:]])
    settings = settings_for(write(tmp_path / "set", "train", columns), tmp_path, validation_fraction=0)
    data = prepared(settings, TextInput(name, 7))
    rows = [2, 0, 1, 0]
    texts = [[column[row] for row in rows] for column in (first, second)[: 1 + pair]]
    expected = AutoTokenizer.from_pretrained(name)(
        *texts, truncation=True, max_length=7, padding="longest", return_tensors="pt"
    )
    batch = data.train.batch(np.array(rows))
    assert batch.keys() == {*expected.keys(), "labels"}
    assert all(torch.equal(batch[key], expected[key]) and batch[key].dtype == torch.int64 for key in expected)
    assert data.train.batch(np.array([1]))["input_ids"].shape == (1, 5 if pair else 3)
    assert data.pad_token_id == 3
    by_row = expected["attention_mask"].sum(dim=1).tolist()
    assert data.train.mean_length == pytest.approx(np.mean([by_row[1], by_row[2], by_row[0]]))


def test_token_types_are_stored_only_where_the_tokenizer_makes_them(tmp_path: Path) -> None:
    name = write_tokenizer(tmp_path / "tok", model_input_names=["input_ids", "attention_mask"])
    batch = prepared(settings_for(write_texts(tmp_path / "set"), tmp_path), TextInput(name, 8)).train.batch(
        np.arange(2)
    )
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}


def test_more_texts_than_one_call_takes_stay_in_order(tmp_path: Path) -> None:
    texts = [" ".join(["film"] * (1 + i % 6)) for i in range(2500)]
    folder = write_texts(tmp_path / "set", text=texts, label=[0] * 2500)
    settings = settings_for(folder, tmp_path, validation_fraction=0)
    train = prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 16)).train
    lengths = train.batch(np.arange(2500))["attention_mask"].sum(dim=1)
    assert lengths.tolist() == [3 + i % 6 for i in range(2500)]


# --- the held-out validation split -------------------------------------------------------------------------------


def held_out_rows(labels: list[int], fraction: float, seed: int = 0) -> np.ndarray:
    return cache_room._hold_out(np.array(labels), fraction, seed)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.37, 0.8])
def test_the_held_out_split_is_stratified_within_one(fraction: float) -> None:
    labels = np.random.default_rng(0).choice(6, p=[0.5, 0.2, 0.1, 0.1, 0.06, 0.04], size=1003)
    rows = cache_room._hold_out(labels, fraction, 0)
    assert (np.abs(np.bincount(labels[rows]) - np.bincount(labels) * fraction) < 1).all()
    assert len(rows) == round(1003 * fraction) and (np.diff(rows) > 0).all()


def test_no_class_loses_its_last_example() -> None:
    labels = [0] * 10 + [1, 2, 3]
    assert set(np.array(labels)[held_out_rows(labels, 0.9)]) == {0}


def test_training_and_held_out_examples_are_the_training_split(tmp_path: Path) -> None:
    settings = settings_for("digits", tmp_path)
    whole = prepared(settings.model_copy(update={"validation_fraction": 0.0}), GREY).train
    held: list[torch.Tensor] = []
    for seed in (0, 1):
        data = prepared(settings, GREY, seed)
        assert data.validation is not None and len(data.train) + len(data.validation) == len(whole) == 1437
        both = [split.batch(np.arange(len(split))) for split in (data.train, data.validation)]
        rows = torch.cat([torch.cat([b["pixel_values"].flatten(1), b["labels"][:, None]], dim=1) for b in both])
        everything = whole.batch(np.arange(1437))
        expected = torch.cat([everything["pixel_values"].flatten(1), everything["labels"][:, None]], dim=1)
        assert np.array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0))
        held.append(both[1]["pixel_values"])
    assert not torch.equal(*held)


def test_a_published_validation_split_is_used_instead(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set")
    data = prepared(settings_for(write_images(folder, "validation", PIXELS[:4]), tmp_path), GREY)
    assert data.validation is not None and (len(data.train), len(data.validation)) == (12, 4)


def test_groups_go_with_the_training_examples(tmp_path: Path) -> None:
    users = ["zoe", "ann", "bob", "ann"] * 5
    texts = [f"{'film ' * (1 + users.index(user))}" for user in users]
    folder = write_texts(tmp_path / "set", text=texts, user=users, label=[0, 1] * 10)
    settings = settings_for(
        folder, tmp_path, validation_fraction=0.3, partition={"kind": "by_column", "column": "user"}
    )
    data = prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8))
    assert data.groups is not None and data.groups.dtype == np.int64 and len(data.groups) == len(data.train) == 14
    lengths = data.train.batch(np.arange(14))["attention_mask"].sum(dim=1) - 3
    assert data.groups.tolist() == [{0: 2, 1: 0, 2: 1}[int(length)] for length in lengths]


# --- the cache ---------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_examples_are_prepared_once(tmp_path: Path) -> None:
    settings = settings_for("digits", tmp_path)
    info = inspect(settings)
    folder = prepare(info, settings, GREY, 0)
    before = snapshot(tmp_path / "cache")
    assert prepare(inspect(settings), settings, GREY, 0) == folder
    assert snapshot(tmp_path / "cache") == before


def test_seeds_share_the_stored_examples(tmp_path: Path) -> None:
    settings = settings_for("digits", tmp_path)
    folders = [prepare(inspect(settings), settings, GREY, seed) for seed in (0, 1)]
    assert folders[0] != folders[1] and folders[0].parent == folders[1].parent
    assert sum(path.stat().st_size for path in folders[1].iterdir()) < 5000


def test_whatever_changes_the_examples_changes_the_folder(tmp_path: Path) -> None:
    plain = {"validation_fraction": 0}
    texts, tokenizer = write_texts(tmp_path / "set"), write_tokenizer(tmp_path / "tok")
    settings = settings_for(texts, tmp_path, **plain)
    folders = [prepare(inspect(settings), settings, TextInput(tokenizer, length), 0) for length in (4, 5)]
    write_tokenizer(tmp_path / "tok", [*WORDS[:4], *WORDS[:3:-1]])
    folders.append(prepare(inspect(settings), settings, TextInput(tokenizer, 4), 0))
    write_texts(texts, sentence=["dull film"] * 20, label=["good", "bad"] * 10)
    folders.append(prepare(inspect(settings), settings, TextInput(tokenizer, 4), 0))
    by_label = settings_for(texts, tmp_path, **plain, partition={"kind": "by_column", "column": "label"})
    folders.append(prepare(inspect(by_label), by_label, TextInput(tokenizer, 4), 0))
    assert len(set(folders)) == 5


def test_two_processes_share_one_cache(tmp_path: Path) -> None:
    script = (
        "import sys; from raffm_mpi.config import DataSettings; from raffm_mpi.data import *\n"
        f"settings = DataSettings(path='digits', cache={str(tmp_path / 'cache')!r}); info = inspect(settings)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "folder = prepare(info, settings, ImageInput(1, 64, 64, (0.5,), (0.5,)), 0)\n"
        "print(folder, float(open_data(folder).train.batch(__import__('numpy').arange(99))['pixel_values'].sum()))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(tmp_path)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    processes = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 2
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and answers[0] == answers[1]
    examples = list((tmp_path / "cache").iterdir())
    assert len(examples) == 1 and not [path for path in examples[0].iterdir() if path.name.startswith(".")]


def test_a_lost_race_uses_the_winner(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "file").write_text("late")
        (tmp_path / "it").mkdir()
        (tmp_path / "it" / "file").write_text("first")

    assert cache_room._build_once(tmp_path / "it", build) == tmp_path / "it"
    assert [path.name for path in tmp_path.iterdir()] == ["it"] and (tmp_path / "it" / "file").read_text() == "first"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        cache_room._build_once(tmp_path / "it", build)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(UserMistake, match=r"data.cache: '.*' cannot be filled: .*No space left on device"):
        cache_room._build_once(tmp_path / "it", build)


def test_importing_the_room_is_cheap() -> None:
    script = (
        "import sys, raffm_mpi.data; print([m for m in ('datasets', 'transformers', 'sklearn') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert shown.stdout == "[]\n"


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["./nowhere", "/no/where", "~/no-where", "a/b/c"])
def test_a_missing_folder_is_told_before_anything_is_imported(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserMistake, match=f"^data.path: folder '{path}' does not exist$"):
        inspect(DataSettings(path=path))


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,0\n")
    with pytest.raises(UserMistake, match=r"data.path: '.*a.csv' is a file; give the folder that holds it"):
        inspect(DataSettings(path=str(tmp_path / "a.csv")))


@pytest.mark.parametrize("path", ["nobody/nothing", "EMPTY"])
def test_a_data_set_that_cannot_be_loaded_is_one_sentence(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    path = path.replace("EMPTY", str(tmp_path / "empty"))
    with pytest.raises(UserMistake, match=f"data.path: '{path}' cannot be loaded: .") as caught:
        inspect(settings_for(path, tmp_path))
    assert "\n" not in str(caught.value)


TWO = datasets.ClassLabel(names=["x", "y"])
PICTURE = [png(PIL.Image.fromarray(PIXELS[0]))]
BAD_COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown name": (
        {"a": ["t"], "b": [0]},
        {"label": "x"},
        "label: column 'x' is not in the data set; columns: a, b",
    ),
    "no label": (
        {"a": ["t"], "b": [0]},
        {},
        "label: no column is known as the label; name one of a, b; set data.task: causal_lm for texts without one$",
    ),
    "two labels": (
        {"text": ["t"], "target": [0], "category": [0]},
        {},
        "label: columns target, category may all be the label; name one",
    ),
    "real label of an image": (
        {"a_image": PICTURE, "label": [0.5]},
        {},
        "label: column 'label' holds float64; task image_classification allows class labels, whole numbers, strings",
    ),
    "no text": (
        {"a": [1], "label": [0]},
        {},
        "text: no column is known as the text; name one of a, label",
    ),
    "three texts": (
        {"a": ["t"], "b": ["t"], "c": ["t"], "label": [0]},
        {},
        "text: columns a, b, c may all be the text; name one",
    ),
    "text of numbers": (
        {"a": [1], "label": [0]},
        {"text": "a"},
        "text: column 'a' holds int64; task text_classification allows strings",
    ),
    "list as text": (
        {"a": [["t"]], "label": [0]},
        {"text": "a"},
        "text: column 'a' holds .*; task text_classification allows strings",
    ),
    "two images": (
        {"a_image": PICTURE, "b_image": PICTURE, "label": [0]},
        {},
        "image: columns a_image, b_image may all be the image; name one",
    ),
    "image of strings": (
        {"a": ["t"], "label": [0]},
        {"image": "a"},
        "image: column 'a' holds no images but Value",
    ),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_a_column_mistake_is_one_clear_sentence(case: str, tmp_path: Path) -> None:
    columns, named, sentence = BAD_COLUMNS[case]
    images = {name: datasets.Image() for name in columns if name.endswith("_image")}
    folder = write(tmp_path / "set", "train", columns, **images)
    with pytest.raises(UserMistake, match=rf"^data\.columns\.{sentence}"):
        inspect(settings_for(folder, tmp_path, columns=named))


def test_image_and_text_are_not_both_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"a": PICTURE, "b": ["t"], "label": [0]}, a=datasets.Image())
    with pytest.raises(
        UserMistake, match=r"^data.columns.text: column 'b' is named, but image_classification reads only"
    ):
        inspect(settings_for(folder, tmp_path, columns={"image": "a", "text": "b"}))


def test_two_class_labels_are_ambiguous(tmp_path: Path) -> None:
    columns = {"text": ["t"], "fine_label": [0], "coarse_label": [0]}
    folder = write(tmp_path / "set", "train", columns, fine_label=TWO, coarse_label=TWO)
    with pytest.raises(UserMistake, match="columns fine_label, coarse_label may all be the label; name one"):
        inspect(settings_for(folder, tmp_path))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train_split": "x"}, "data.train_split: split 'x' is not in the data set; splits: train, test"),
        ({"validation_split": "x"}, "data.validation_split: split 'x' is not in the data set; splits: train, test"),
        ({"test_split": "x"}, "data.test_split: split 'x' is not in the data set; splits: train, test"),
        ({"test_split": "train"}, "data.test_split: split 'train' is the train split already"),
        ({"partition": {"kind": "by_column", "column": "x"}}, "data.partition.column: column 'x' is not in the data"),
        (
            {"partition": {"kind": "by_column", "column": "image"}},
            "data.partition.column: column 'image' holds .*; allowed are class labels, whole numbers, strings",
        ),
    ],
)
def test_a_split_or_group_mistake_is_one_clear_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserMistake, match=f"^{sentence}"):
        inspect(DataSettings.model_validate({"path": "digits", **options}))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (b"broken", "the image cannot be decoded: "),
        (png(PIL.Image.fromarray(PIXELS[0]))[:80], "the image cannot be decoded: "),
        (png(PIL.Image.new("I;16", (4, 4))), "the image cannot be decoded: mode I;16 has more than 8 bits a channel"),
        (None, "the image is missing"),
    ],
    ids=["no image", "half an image", "16 bits", "null"],
)
def test_a_bad_image_is_named_by_split_and_row(bad: bytes | None, sentence: str, tmp_path: Path) -> None:
    rows: list[bytes | None] = [png(PIL.Image.new("RGB", (4, 4)))] * 70
    write(tmp_path / "set", "train", {"image": rows, "label": [0] * 70}, image=datasets.Image())
    rows = [*rows[:50], bad, *rows[51:]]
    write(tmp_path / "set", "test", {"image": rows, "label": [0] * 70}, image=datasets.Image())
    with pytest.raises(UserMistake, match=f"^data.path: split 'test', row 50: {sentence}"):
        prepared(settings_for(tmp_path / "set", tmp_path), GREY)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"user": ["u", None]}, "row 1: column 'user' is null; by_column needs a value everywhere"),
        ({"label": ["x", None]}, "row 1: label None is not one of the 1 classes"),
    ],
)
def test_a_missing_group_or_label_is_named_by_split_and_row(
    columns: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    columns = {"text": ["a", "a"], "user": ["u", "u"], "label": ["x", "x"], **columns}
    partition = {"kind": "by_column", "column": "user"}
    settings = settings_for(write(tmp_path / "set", "train", columns), tmp_path, partition=partition)
    with pytest.raises(UserMistake, match=f"^data.path: split 'train', {sentence}"):
        prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8))


@pytest.mark.parametrize(("label", "shown"), [(2, "2"), (-1, "-1")])
def test_a_label_outside_the_classes_is_named_by_split_and_row(label: int, shown: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"text": ["a"] * 3, "label": [0, 1, 1]}, label=TWO)
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(table.set_column(1, table.schema.field("label"), [[0, 1, label]]), folder / "train.parquet")
    settings = settings_for(folder, tmp_path)
    with pytest.raises(UserMistake, match=f"split 'train', row 2: label {shown} is not one of the 2 classes"):
        prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8))


def test_a_label_that_training_never_shows_is_named_by_split_and_row(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "set")
    write_texts(folder, "test", sentence=["a", "b"], label=["good", "odd"])
    with pytest.raises(UserMistake, match=r"data.path: split 'test', row 1: label 'odd' is not one of the 2 classes"):
        prepared(settings_for(folder, tmp_path), TextInput(write_tokenizer(tmp_path / "tok"), 8))


def test_a_tokenizer_mistake_is_one_clear_sentence(tmp_path: Path) -> None:
    settings = settings_for(write_texts(tmp_path / "set"), tmp_path)
    with pytest.raises(UserMistake, match=r"data.tokenizer: '.*' cannot be loaded: .") as caught:
        prepared(settings, TextInput(str(tmp_path / "nowhere"), 8))
    assert "\n" not in str(caught.value)
    name = write_tokenizer(tmp_path / "tok", pad_token=None)
    with pytest.raises(UserMistake, match=r"data.tokenizer: '.*tok' has neither a pad nor an end-of-text token; name"):
        prepared(settings, TextInput(name, 8))


def test_inputs_must_fit_the_data(tmp_path: Path) -> None:
    with pytest.raises(
        UserMistake, match=r"data.path: '.*' holds text_classification examples, but the model takes images$"
    ):
        prepared(settings_for(write_texts(tmp_path / "set"), tmp_path), GREY)
    with pytest.raises(UserMistake, match="model: images of 4 channels; allowed are 1"):
        ImageInput(4, 8, 8, (0.5,) * 4, (0.5,) * 4)
    with pytest.raises(UserMistake, match="model: images of 3 channels need as many means and deviations"):
        ImageInput(3, 8, 8, (0.5,), (0.5,))


def test_a_fraction_that_holds_out_nothing_is_refused() -> None:
    with pytest.raises(UserMistake, match=r"data.validation_fraction: 0.1 of 4 training examples holds out none"):
        held_out_rows([0, 1, 0, 1], 0.1)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserMistake, match=r"data.cache: '.*cache' cannot be filled: "):
        prepared(settings_for("digits", tmp_path), GREY)


# --- real data sets ----------------------------------------------------------------------------------------------


def first_examples(source: Path, folder: Path, num_examples: int = 300) -> Path:
    """The first examples of each split, as a data set of their own."""
    folder.mkdir()
    for file in source.glob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, num_examples), folder / file.name)
    return folder


@pytest.mark.shared
def test_cifar10_is_understood(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    settings = settings_for(first_examples(shared_data("cifar10"), tmp_path / "set"), tmp_path)
    info = inspect(settings)
    assert (info.columns.image, info.columns.label, info.num_classes) == ("img", "label", 10)
    data = prepared(settings, ImageInput(3, 32, 32, (0.5,) * 3, (0.5,) * 3))
    assert data.test is not None and data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (270, 30, 300)
    assert data.train.batch(np.arange(64))["pixel_values"].shape == (64, 3, 32, 32)


@pytest.mark.shared
def test_sst2_is_understood(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    settings = settings_for(first_examples(shared_data("sst2"), tmp_path / "set"), tmp_path)
    info = inspect(settings)
    assert (info.columns.text, info.columns.text_pair, info.label_names) == ("sentence", None, ("negative", "positive"))
    data = prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 32))
    assert data.validation is not None and len(data.train) == len(data.validation) == 300
    assert data.train.batch(np.arange(64))["input_ids"].shape[1] <= 32
    assert 5 < data.train.mean_length < 32
