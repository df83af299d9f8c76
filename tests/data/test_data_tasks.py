"""Every task of text: how it is found, what it refuses, and what its batches hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raffm_mpi.config import DataSettings
from raffm_mpi.data import DataInfo, FederatedData, TextInput, inspect, open_data, prepare
from raffm_mpi.errors import UserMistake

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "dull", "and", "long"]
ANSWERS = {"text": ["dull"], "answer_start": [0]}
QUESTIONS = {"id": ["x"], "title": ["t"], "context": ["dull film"], "question": ["a film"], "answers": [ANSWERS]}
TWO = datasets.ClassLabel(names=["x", "y"])
SCORES = datasets.Value("float32")


def settings_for(folder: Path | str, tmp_path: Path, **options: Any) -> DataSettings:
    return DataSettings.model_validate({"path": str(folder), "cache": str(tmp_path / "cache"), **options})


def write(folder: Path, split: str, columns: Mapping[str, Any], **features: Any) -> Path:
    """One Parquet file; features that are not named are guessed from the values."""
    examples = datasets.Dataset.from_dict(dict(columns))
    for name, feature in features.items():
        examples = examples.cast_column(name, feature)
    folder.mkdir(exist_ok=True, parents=True)
    examples.to_parquet(folder / f"{split}.parquet")
    return folder


def write_tokenizer(folder: Path, ending: str = "[CLS] $A [SEP]", **options: Any) -> str:
    """A tokenizer of whole words that adds what ``ending`` says; as of T5 with "$A [SEP]", as of GPT-2 with "$A"."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, i) for i, word in enumerate(WORDS[:4]) if word in ending]
    pair = ending.replace("$A", "$A $B")
    tokenizer.post_processor = processors.TemplateProcessing(single=ending, pair=pair, special_tokens=special)
    streams = ["input_ids", "token_type_ids", "attention_mask"]
    options = {
        "pad_token": "[PAD]",
        "eos_token": "[SEP]",
        "unk_token": "[UNK]",
        "model_input_names": streams,
        **options,
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)
    return str(folder)


def prepared(settings: DataSettings, inputs: TextInput, seed: int = 0) -> FederatedData:
    return open_data(prepare(inspect(settings), settings, inputs, seed))


def roles(info: DataInfo) -> dict[str, str]:
    return {split.role: split.name for split in info.splits}


def reads(info: DataInfo) -> dict[str, str]:
    return {role: name for role, name in vars(info.columns).items() if name is not None}


# --- which task --------------------------------------------------------------------------------------------------

INFERRED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, dict[str, str]]] = {
    "class label": (
        {"text": ["a"], "label": [0]},
        {"label": TWO},
        {},
        "text_classification",
        {"text": "text", "label": "label"},
    ),
    "scored pair": (
        {"sentence1": ["a"], "sentence2": ["b"], "label": [4.5], "idx": [0]},
        {"label": SCORES},
        {},
        "regression",
        {"text": "sentence1", "text_pair": "sentence2", "label": "label"},
    ),
    "named score": (
        {"review": ["a"], "stars": [0.5]},
        {},
        {"label": "stars"},
        "regression",
        {"text": "review", "label": "stars"},
    ),
    "questions": (
        QUESTIONS,
        {},
        {},
        "question_answering",
        {"question": "question", "context": "context", "answers": "answers"},
    ),
    "questions by other names": (
        {"q": ["a"], "context": ["dull"], "gold": [ANSWERS]},
        {},
        {"question": "q", "answers": "gold"},
        "question_answering",
        {"question": "q", "context": "context", "answers": "gold"},
    ),
    "classes of questions": (
        {**QUESTIONS, "label": [0]},
        {},
        {"text": "question", "label": "label"},
        "text_classification",
        {"text": "question", "label": "label"},
    ),
    "target": (
        {"id": ["x"], "article": ["a"], "summary": ["b"]},
        {},
        {"target": "summary"},
        "seq2seq",
        {"text": "article", "target": "summary"},
    ),
    "target and source": (
        {"title": ["t"], "article": ["a"], "summary": ["b"]},
        {},
        {"target": "summary", "text": "title"},
        "seq2seq",
        {"text": "title", "target": "summary"},
    ),
    "text alone": ({"idx": [0], "text": ["a"]}, {}, {}, "causal_lm", {"text": "text"}),
}


@pytest.mark.parametrize("case", INFERRED)
def test_the_task_is_inferred_from_the_columns(case: str, tmp_path: Path) -> None:
    columns, features, named, task, expected = INFERRED[case]
    folder = write(tmp_path / "set", "train", columns, **features)
    info = inspect(settings_for(folder, tmp_path, columns=named))
    assert info.task == task and reads(info) == expected
    assert bool(info.label_names) == (task == "text_classification")


OVERRIDES: dict[str, tuple[str, dict[str, Any], dict[str, str], dict[str, str]]] = {
    "whole numbers are scores": (
        "regression",
        {"text": ["a"], "label": [3]},
        {},
        {"text": "text", "label": "label"},
    ),
    "labels are not read": ("causal_lm", {"text": ["a"], "label": [0]}, {}, {"text": "text"}),
    "questions are not read": ("causal_lm", QUESTIONS, {"text": "context"}, {"text": "context"}),
    "a picture is not read": (
        "text_classification",
        {"caption": ["a"], "picture": [b""], "label": [0]},
        {},
        {"text": "caption", "label": "label"},
    ),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_task_that_is_given_decides(case: str, tmp_path: Path) -> None:
    task, columns, named, expected = OVERRIDES[case]
    features = {"picture": datasets.Image()} if "picture" in columns else {}
    folder = write(tmp_path / "set", "train", columns, **features)
    info = inspect(settings_for(folder, tmp_path, task=task, columns=named))
    assert info.task == task and reads(info) == expected


def test_the_group_column_is_no_text_to_continue(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"text": ["a"], "user": ["u"]})
    info = inspect(settings_for(folder, tmp_path, partition={"kind": "by_column", "column": "user"}))
    assert info.task == "causal_lm" and reads(info) == {"text": "text", "group": "user"}


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "score for classes": (
        {"text": ["a"], "label": [0.5]},
        {"task": "text_classification"},
        {},
        "data.columns.label: column 'label' holds float64; task text_classification allows class labels, whole numbers",
    ),
    "strings for scores": (
        {"text": ["a"], "label": ["x"]},
        {"task": "regression"},
        {},
        "data.columns.label: column 'label' holds string; task regression allows numbers",
    ),
    "classes for scores": (
        {"text": ["a"], "label": [0]},
        {"task": "regression"},
        {"label": TWO},
        "data.columns.label: column 'label' holds class labels; task regression allows numbers",
    ),
    "no image": (
        {"text": ["a"], "label": [0]},
        {"task": "image_classification"},
        {},
        "data.columns.image: no column is known as the image; name one of text, label",
    ),
    "no context": (
        {"text": ["a"], "question": ["b"]},
        {"task": "question_answering"},
        {},
        "data.columns.context: no column is known as the context; name one of text, question",
    ),
    "no target": (
        {"text": ["a"], "summary": ["b"]},
        {"task": "seq2seq"},
        {},
        "data.columns.target: no column is known as the target; name one of text, summary",
    ),
    "two texts to continue": (
        {"a": ["a"], "b": ["b"]},
        {"task": "causal_lm"},
        {},
        "data.columns.text: columns a, b may all be the text; name one",
    ),
    "what may be a label": (
        {"text": ["a"], "stars": [0.5]},
        {},
        {},
        "data.columns.label: no column is known as the label; name one of text, stars; set data.task: causal_lm for",
    ),
    "another task's column": (
        {"text": ["a"], "label": [0], "summary": ["b"]},
        {"task": "text_classification", "columns": {"target": "summary"}},
        {},
        "data.columns.target: column 'summary' is named, but text_classification reads only text, text_pair, label",
    ),
    "a label of questions": (
        QUESTIONS,
        {"task": "question_answering", "columns": {"label": "title"}},
        {},
        "data.columns.label: column 'title' is named, but question_answering reads only question, context, answers",
    ),
    "one column twice": (
        {"text": ["a"]},
        {"columns": {"text": "text", "target": "text"}},
        {},
        "data.columns: text, target name columns text, text; a column has one role",
    ),
    "target of numbers": (
        {"text": ["a"], "n": [1]},
        {"columns": {"target": "n"}},
        {},
        "data.columns.target: column 'n' holds int64; task seq2seq allows strings",
    ),
    "answers of strings": (
        {**QUESTIONS, "answers": ["dull"]},
        {},
        {},
        "data.columns.answers: column 'answers' holds Value('string'); allowed are answers of the form {text: ",
    ),
    "answers without starts": (
        {**QUESTIONS, "answers": [{"text": ["dull"]}]},
        {},
        {},
        "data.columns.answers: column 'answers' holds {'text': List(Value('string'))}; allowed are answers of the form",
    ),
    "answers of numbers": (
        {**QUESTIONS, "answers": [{"text": [1], "answer_start": [0]}]},
        {},
        {},
        "data.columns.answers: column 'answers' holds {'text': List(Value('int64')), 'answer_start': List(Value('int64",
    ),
    "unknown column": (
        QUESTIONS,
        {"columns": {"context": "passage"}},
        {},
        "data.columns.context: column 'passage' is not in the data set; columns: id, title, context, question, answers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_contradict_the_task_are_one_clear_sentence(case: str, tmp_path: Path) -> None:
    columns, options, features, sentence = REFUSED[case]
    folder = write(tmp_path / "set", "train", columns, **features)
    with pytest.raises(UserMistake, match=f"^{re.escape(sentence)}") as caught:
        inspect(settings_for(folder, tmp_path, **options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["dirichlet", "shards", "k_shot"])
@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("regression", {"text": ["a"], "label": [0.5]}),
        ("question_answering", QUESTIONS),
        ("causal_lm", {"text": ["a"]}),
    ],
)
def test_partitions_by_class_need_classes(kind: str, task: str, columns: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", columns)
    sentence = f"data.partition.kind: '{kind}' needs classes, and {task} has none; allowed are iid and by_column"
    with pytest.raises(UserMistake, match=f"^{sentence}$"):
        inspect(settings_for(folder, tmp_path, partition={"kind": kind}))
    assert inspect(settings_for(folder, tmp_path, partition={"kind": "iid"})).task == task


# --- subsets and splits ------------------------------------------------------------------------------------------

CONFIGURATIONS = """---
configs:
- {config_name: mrpc, data_files: mrpc/*.parquet}
- {config_name: sst2, data_files: sst2/*.parquet}
---
"""


SUBSETS = {"mrpc": "a film", "sst2": "dull film", "cola": "fine film"}


def write_subsets(folder: Path) -> Path:
    for name, text in SUBSETS.items():
        write(folder / name, "train", {"text": [text]})
    return folder


@pytest.mark.parametrize("readme", [CONFIGURATIONS, ""])
def test_a_subset_is_a_configuration_or_a_folder(readme: str, tmp_path: Path) -> None:
    folder = write_subsets(tmp_path / "set")
    (folder / "README.md").write_text(readme)
    inputs = TextInput(write_tokenizer(tmp_path / "tok", "$A"), 8)
    for subset, text in SUBSETS.items():
        settings = settings_for(folder, tmp_path, subset=subset, validation_fraction=0)
        tokens = prepared(settings, inputs).train.batch(np.arange(1))["input_ids"]
        assert tokens.tolist() == [[WORDS.index(word) for word in text.split()]]


def test_a_wrong_subset_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    folder = write_subsets(tmp_path / "set")
    (folder / "README.md").write_text(CONFIGURATIONS)
    known = "known: mrpc, sst2, cola$"
    with pytest.raises(UserMistake, match=rf"^data.subset: 'x' is not in data set '{folder}'; {known}"):
        inspect(settings_for(folder, tmp_path, subset="x"))
    with pytest.raises(UserMistake, match=rf"^data.subset is missing: data set '{folder}' has several; {known}"):
        inspect(settings_for(folder, tmp_path))
    with pytest.raises(UserMistake, match=r"^data.subset: 'x' is not in data set 'digits', which has none$"):
        inspect(settings_for("digits", tmp_path, subset="x"))
    with pytest.raises(UserMistake, match=r"^data.path: 'nobody/nothing' cannot be loaded: "):
        inspect(settings_for("nobody/nothing", tmp_path, subset="x"))


def write_splits(folder: Path, labels: Mapping[str, list[int]]) -> Path:
    for split, values in labels.items():
        columns = {"premise": ["a"] * len(values), "hypothesis": ["b"] * len(values), "label": values}
        write(folder, split, columns)
    listed = "".join(f"  - {{split: {split}, path: {split}.parquet}}\n" for split in labels)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{listed}---\n")
    return folder


@pytest.mark.parametrize(("hidden", "test"), [(True, "validation_mismatched"), (False, "test_matched")])
def test_the_mismatched_validation_split_stands_in_for_a_withheld_test(hidden: bool, test: str, tmp_path: Path) -> None:
    tested = [7, 7] if hidden else [0, 1]
    shown = {name: [0, 1] for name in ("train", "validation_matched", "validation_mismatched")}
    folder = write_splits(tmp_path / "set", {**shown, "test_matched": tested, "test_mismatched": tested})
    if hidden:
        for split in ("test_matched", "test_mismatched"):
            write(folder, split, {"premise": ["a"] * 2, "hypothesis": ["b"] * 2, "label": [-1, -1]})
    assert roles(inspect(settings_for(folder, tmp_path))) == {
        "train": "train",
        "validation": "validation_matched",
        "test": test,
    }
    named = settings_for(folder, tmp_path, validation_split="validation_mismatched")
    assert roles(inspect(named)).get("test") == (None if hidden else "test_matched")


HIDDEN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "all scores -1": ({"text": ["a", "b"], "label": [0.5, -1.0]}, {"label": [-1.0, -1.0]}, {}),
    "a missing score": ({"text": ["a", "b"], "label": [0.5, 1.0]}, {"label": [0.5, None]}, {}),
    "no answers": (
        {"context": ["dull"] * 2, "question": ["a"] * 2, "answers": [ANSWERS, {"text": [], "answer_start": []}]},
        {"answers": [{"text": [], "answer_start": []}] * 2},
        {},
    ),
    "empty targets": ({"text": ["a", "b"], "to": ["b", ""]}, {"to": ["", ""]}, {"columns": {"target": "to"}}),
    "a missing target": ({"text": ["a", "b"], "to": ["b", "c"]}, {"to": ["b", None]}, {"columns": {"target": "to"}}),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_a_test_split_that_hides_what_is_asked_is_left_out(case: str, tmp_path: Path) -> None:
    columns, hidden, options = HIDDEN[case]
    features = datasets.Dataset.from_dict(columns).features
    folder = write(tmp_path / "set", "train", columns)
    write(folder, "test", columns)
    settings = settings_for(folder, tmp_path, **options)
    assert "test" in roles(inspect(settings))
    write(folder, "test", {**columns, **hidden}, **{name: features[name] for name in hidden})
    assert "test" not in roles(inspect(settings))
    with pytest.raises(UserMistake, match=r"^data.test_split: the labels of split 'test' are withheld$"):
        inspect(settings.model_copy(update={"test_split": "test"}))


# --- regression --------------------------------------------------------------------------------------------------


def test_scores_are_read_as_numbers(tmp_path: Path) -> None:
    scores = [0.1, 5.0, -2.25, 3.0]
    columns = {"text": ["a film", "dull", "fine", "a"], "label": scores}
    settings = settings_for(write(tmp_path / "set", "train", columns), tmp_path, validation_fraction=0.0)
    train = prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8)).train
    assert train.labels.dtype == np.float64 and train.labels.tolist() == scores
    batch = train.batch(np.array([2, 0]))
    assert batch["labels"].dtype == torch.float32 and torch.equal(batch["labels"], torch.tensor([-2.25, 0.1]))
    assert batch["input_ids"].tolist() == [[2, 5, 3, 0], [2, 4, 6, 3]] and train.mean_target_length == 0.0


def test_scores_are_held_out_without_strata(tmp_path: Path) -> None:
    scores = [float(i) for i in range(20)]
    folder = write(tmp_path / "set", "train", {"text": ["a"] * 20, "label": scores})
    data = prepared(settings_for(folder, tmp_path, validation_fraction=0.3), TextInput(write_tokenizer(tmp_path), 8))
    assert data.validation is not None and (len(data.train), len(data.validation)) == (14, 6)
    assert sorted([*data.train.labels, *data.validation.labels]) == scores


@pytest.mark.parametrize(("bad", "shown"), [(None, "None"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_a_score_that_is_no_number_is_named_by_row(bad: float | None, shown: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"text": ["a"] * 3, "label": [0.5, 1.5, bad]})
    name = write_tokenizer(tmp_path / "tok")
    with pytest.raises(UserMistake, match=f"^data.path: split 'train', row 2: label {shown} is not a finite number$"):
        prepared(settings_for(folder, tmp_path), TextInput(name, 8))


# --- causal_lm ---------------------------------------------------------------------------------------------------


def test_texts_are_cut_one_by_one_and_are_their_own_labels(tmp_path: Path) -> None:
    texts = ["a fine film and long", "dull film", "a and a"]
    settings = settings_for(write(tmp_path / "set", "train", {"text": texts}), tmp_path, validation_fraction=0.0)
    name = write_tokenizer(tmp_path / "tok", "$A")
    data = prepared(settings, TextInput(name, 4))
    rows = [2, 0, 1]
    expected = AutoTokenizer.from_pretrained(name)(
        [texts[row] for row in rows], truncation=True, max_length=4, padding=True, return_tensors="pt"
    )
    batch = data.train.batch(np.array(rows))
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["labels"].tolist() == [[4, 8, 4, -100], [4, 5, 6, 8], [7, 6, -100, -100]]
    assert data.train.labels.tolist() == [0, 0, 0] and data.train.labels.dtype == np.int64
    assert data.train.mean_length == 3.0


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_of_text(tmp_path: Path) -> None:
    settings = settings_for(
        write(tmp_path / "set", "train", {"text": ["a film", "dull and long"]}), tmp_path, validation_fraction=0.0
    )
    name = write_tokenizer(tmp_path / "tok", "$A [SEP]", pad_token=None, padding_side="left")
    data = prepared(settings, TextInput(name, 8))
    assert data.pad_token_id == 3
    batch = data.train.batch(np.arange(2))
    assert batch["input_ids"].tolist() == [[4, 6, 3, 3], [7, 8, 9, 3]]
    assert batch["labels"].tolist() == [[4, 6, 3, -100], [7, 8, 9, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_texts_with_nothing_to_predict_are_left_out(tmp_path: Path) -> None:
    texts, users = ["", "a film", "dull", "fine and long", "", "a a"], ["u", "v", "v", "u", "w", "w"]
    folder = write(tmp_path / "set", "train", {"text": texts, "user": users})
    partition = {"kind": "by_column", "column": "user"}
    settings = settings_for(folder, tmp_path, validation_fraction=0.0, partition=partition)
    inputs = TextInput(write_tokenizer(tmp_path / "tok", "$A"), 8)
    data = prepared(settings, inputs)
    assert data.train.batch(np.arange(3))["input_ids"].tolist() == [[4, 6, 0], [5, 8, 9], [4, 4, 0]]
    assert data.train.examples.tolist() == [1, 3, 5]
    assert data.groups is not None and data.groups.tolist() == [1, 0, 2]
    for seed in range(5):
        held = prepared(settings.model_copy(update={"validation_fraction": 0.34}), inputs, seed)
        assert held.validation is not None and len(held.validation) == 1
        assert sorted([*held.train.examples, *held.validation.examples]) == [1, 3, 5]
    empty = settings_for(write(tmp_path / "empty", "train", {"text": ["", "a"]}), tmp_path)
    with pytest.raises(UserMistake, match=r"^data.path: split 'train': no text has two tokens or more, so there is"):
        prepared(empty, inputs)


# --- seq2seq -----------------------------------------------------------------------------------------------------


@pytest.fixture
def translations(tmp_path: Path) -> Path:
    columns = {
        "to": ["a film and a film and a", "fine", "dull and long"],
        "from": ["a film", "dull", "fine and long and dull and a"],
    }
    return write(tmp_path / "set", "train", columns)


def test_sources_are_read_with_their_targets(translations: Path, tmp_path: Path) -> None:
    options = {"columns": {"target": "to"}, "max_target_length": 4, "validation_fraction": 0.0}
    settings = settings_for(translations, tmp_path, **options)
    name = write_tokenizer(tmp_path / "tok", "$A [SEP]")
    data = prepared(settings, TextInput(name, 6))
    rows = [2, 0, 1]
    source = datasets.Dataset.from_parquet(str(translations / "train.parquet"), cache_dir=str(tmp_path / "hf2"))[rows]
    tokenizer = AutoTokenizer.from_pretrained(name)
    expected = tokenizer(source["from"], truncation=True, max_length=6, padding=True, return_tensors="pt")
    targets = tokenizer(text_target=source["to"], truncation=True, max_length=4)["input_ids"]
    batch = data.train.batch(np.array(rows))
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["labels"].tolist() == [ids + [-100] * (4 - len(ids)) for ids in targets]
    assert batch["labels"].dtype == torch.int64 and batch["labels"][1, -1] == 3
    assert data.train.mean_length == pytest.approx((3 + 2 + 6) / 3)
    assert data.train.mean_target_length == pytest.approx((4 + 2 + 4) / 3)
    assert data.train.references is None
    with pytest.raises(UserMistake, match="spans are of question_answering alone"):
        data.train.spans(np.arange(1))


def test_the_length_of_targets_changes_the_folder(translations: Path, tmp_path: Path) -> None:
    inputs = TextInput(write_tokenizer(tmp_path / "tok"), 6)
    folders = []
    for length in (4, 5):
        settings = settings_for(
            translations, tmp_path, columns={"target": "to"}, max_target_length=length, validation_fraction=0.0
        )
        folders.append(prepare(inspect(settings), settings, inputs, 0))
    assert folders[0] != folders[1]
