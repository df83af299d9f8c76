"""Questions about contexts: windows, answers, what is held out and what a client holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from made_sets import prepare, prepared
from pydantic import TypeAdapter
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raffm_mpi.config import AnyPartition, DataSettings, IIDPartition, load_settings
from raffm_mpi.data import Split, TextInput, open_data, partition
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks import TASKS, inspect
from raffm_mpi.tasks.question_answering import References, spans_of

CHOICE = TypeAdapter(AnyPartition)
NOWHERE: dict[str, list[Any]] = {"text": [], "answer_start": []}
ANSWERS = {"text": datasets.List(datasets.Value("string")), "answer_start": datasets.List(datasets.Value("int32"))}
VOCABULARY = ["the", "of", "was", "first", "Zürich", "naïve", "café", "1999", "river", "Ünïcode", "—", "city", "old"]


def settings_for(folder: Path, tmp_path: Path, **options: Any) -> DataSettings:
    values = {"path": str(folder), "cache": str(tmp_path / "cache"), "validation_fraction": 0.0, **options}
    return DataSettings.model_validate(values)


def at(context: str, *texts: str) -> dict[str, list[Any]]:
    return {"text": list(texts), "answer_start": [context.index(text) for text in texts]}


def make_questions(num_examples: int, seed: int = 0) -> dict[str, list[Any]]:
    """Contexts of 1 to 60 words with odd spaces; each third question has no answer, some have two."""
    rng = np.random.default_rng(seed)
    questions: dict[str, list[Any]] = {"question": [], "context": [], "answers": [], "user": []}
    for number in range(num_examples):
        words = rng.choice(VOCABULARY, size=rng.integers(1, 60))
        context = "".join(str(word) + str(rng.choice([" ", "  ", "\n"])) for word in words)
        spaces = [place for place, sign in enumerate(context) if sign.isspace()]
        start = int(rng.choice([0, *(place + 1 for place in spaces[:-1])]))
        ends = [place for place in spaces if place > start and not context[place - 1].isspace()]
        answers = [context[start:end] for end in ends[:2] if context[start:end].strip()]
        is_answered = number % 3 and answers
        questions["answers"].append(
            {"text": answers, "answer_start": [start] * len(answers)} if is_answered else NOWHERE
        )
        questions["question"].append(" ".join(rng.choice(VOCABULARY, size=rng.integers(1, 6))))
        questions["context"].append(context)
        questions["user"].append(f"user {number % 4}")
    return questions


def write(folder: Path, split: str, columns: dict[str, list[Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    examples = datasets.Dataset.from_dict(columns).cast_column("answers", ANSWERS)
    examples.to_parquet(folder / f"{split}.parquet")
    return folder


def save(tokenizer: Tokenizer, folder: Path, **options: Any) -> str:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)
    return str(folder)


def bert_like(folder: Path) -> str:
    """WordPiece that folds case and accents, with token types."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        [" ".join(VOCABULARY)], trainers.WordPieceTrainer(vocab_size=45, special_tokens=special)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    streams = ["input_ids", "token_type_ids", "attention_mask"]
    return save(tokenizer, folder, pad_token="[PAD]", unk_token="[UNK]", model_input_names=streams)


def roberta_like(folder: Path, trim_offsets: bool = True, **options: Any) -> str:
    """Byte-level BPE, so that some characters are several tokens; two separators between a pair."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(VOCABULARY)], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets)
    names = ["input_ids", "attention_mask"]
    return save(tokenizer, folder, **{"pad_token": "<pad>", "eos_token": "</s>", "model_input_names": names, **options})


def left_sided(folder: Path) -> str:
    return roberta_like(folder, trim_offsets=False, pad_token=None, padding_side="left", truncation_side="left")


TOKENIZERS: list[Callable[[Path], str]] = [bert_like, roberta_like, left_sided]


def references(split: Split) -> References:
    right: References = split.truth
    return right


def windows_by_hand(name: str, questions: dict[str, list[Any]], max_length: int, stride: int) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.truncation_side = "right"
    return tokenizer(
        questions["question"],
        questions["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )


# --- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
def test_windows_are_those_of_the_tokenizer_in_order(
    make_tokenizer: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("raffm_mpi.data.texts.TEXTS_PER_CALL", 7)
    questions, name = make_questions(40), make_tokenizer(tmp_path / "tok")
    settings = settings_for(write(tmp_path / "set", "train", questions), tmp_path, doc_stride=9, max_length=48)
    train = prepared(settings, TextInput(name, 48)).train
    assert references(train).contexts == questions["context"]
    expected = windows_by_hand(name, questions, 48, 9)
    assert train.examples.tolist() == expected["overflow_to_sample_mapping"]
    assert len(train) > 60 and train.labels.tolist() == [0] * len(train)
    rows = np.random.default_rng(0).permutation(len(train))[:30]
    batch, spans = train.batch(rows), spans_of(train, rows)
    assert ("token_type_ids" in batch) == (make_tokenizer is bert_like) and "labels" not in batch
    assert spans.shape == (*batch["input_ids"].shape, 2) and spans.dtype == np.int64
    for place, row in enumerate(rows):
        length = len(expected["input_ids"][row])
        assert batch["attention_mask"][place].tolist() == [1] * length + [0] * (spans.shape[1] - length)
        for stream in batch.keys() & {"input_ids", "token_type_ids"}:
            assert batch[stream][place, :length].tolist() == expected[stream][row]
        by_hand = zip(expected.sequence_ids(row), expected["offset_mapping"][row], strict=True)
        of_context = [list(span) if sequence == 1 else [-1, -1] for sequence, span in by_hand]
        assert spans[place].tolist() == of_context + [[-1, -1]] * (spans.shape[1] - length)
    assert train.mean_length == pytest.approx(np.mean([len(ids) for ids in expected["input_ids"]]))


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
def test_every_answer_that_fits_in_a_window_is_found_again(
    make_tokenizer: Callable[[Path], str], tmp_path: Path
) -> None:
    questions, name = make_questions(90), make_tokenizer(tmp_path / "tok")
    settings = settings_for(write(tmp_path / "set", "train", questions), tmp_path, max_length=64)
    train = prepared(settings, TextInput(name, 64)).train
    right = references(train)
    batch, spans = train.batch(np.arange(len(train))), spans_of(train, np.arange(len(train)))
    found: dict[int, int] = {}
    for row, example in enumerate(right.example):
        first, last = int(batch["start_positions"][row]), int(batch["end_positions"][row])
        context, answers = right.contexts[example], right.answers[example]
        in_context = spans[row][spans[row, :, 0] >= 0]
        fits = False
        if answers:
            start = context.index(answers[0], questions["answers"][example]["answer_start"][0])
            fits = in_context[0, 0] <= start and start + len(answers[0]) <= in_context[-1, 1]
        if fits:
            assert context[spans[row, first, 0] : spans[row, last, 1]].strip() == answers[0].strip()
            found[example] = found.get(example, 0) + 1
        else:
            assert (first, last) == (0, 0)
    answered = {number for number, answer in enumerate(questions["answers"]) if answer["text"]}
    assert len(found) > 0.9 * len(answered) and max(found.values()) > 1
    assert batch["start_positions"].dtype == batch["end_positions"].dtype == torch.int64


def test_successive_windows_share_a_quarter_of_their_length_unless_told(tmp_path: Path) -> None:
    context = " ".join(["river"] * 200)
    columns = {"question": ["first"], "context": [context], "answers": [at(context, "river")], "user": ["u"]}
    folder, name = write(tmp_path / "set", "train", columns), roberta_like(tmp_path / "tok")
    for stride, shared in ((None, 16), (5, 5)):
        settings = settings_for(folder, tmp_path, doc_stride=stride, max_length=64)
        train = prepared(settings, TextInput(name, 64)).train
        spans = [spans_of(train, np.array([row]))[0] for row in (0, 1)]
        sets = [{tuple(span) for span in inner[inner[:, 0] >= 0].tolist()} for inner in spans]
        assert len(sets[0] & sets[1]) == shared


def test_a_bytes_token_is_never_half_of_an_answer(tmp_path: Path) -> None:
    context = "old Ünïcode café — Zürich"
    columns = {"question": ["the"], "context": [context], "answers": [at(context, "—")], "user": ["u"]}
    name = roberta_like(tmp_path / "tok")
    batch = prepared(
        settings_for(write(tmp_path / "set", "train", columns), tmp_path), TextInput(name, 99)
    ).train.batch(np.arange(1))
    tokens = batch["input_ids"][0, batch["start_positions"][0] : batch["end_positions"][0] + 1]
    assert AutoTokenizer.from_pretrained(name).decode(tokens).strip() == "—"


def test_a_question_that_cannot_be_answered_points_at_the_first_token(tmp_path: Path) -> None:
    context = "the old city"
    columns = {
        "question": ["river"] * 2,
        "context": [context] * 2,
        "answers": [NOWHERE, at(context, "old")],
        "user": ["u"] * 2,
    }
    settings = settings_for(write(tmp_path / "set", "train", columns), tmp_path)
    train = prepared(settings, TextInput(bert_like(tmp_path / "tok"), 64)).train
    batch = train.batch(np.arange(2))
    assert batch["start_positions"][0] == batch["end_positions"][0] == 0 and batch["start_positions"][1] > 0
    assert batch["input_ids"][0, 0] == 2 and references(train).answers == [[], ["old"]]


# --- references, held-out examples, clients ------------------------------------------------------------------------


def test_references_are_of_the_split_that_is_asked(tmp_path: Path) -> None:
    published = {split: make_questions(size, size) for split, size in (("train", 30), ("validation", 12), ("test", 9))}
    for split, questions in published.items():
        write(tmp_path / "set", split, questions)
    data = prepared(settings_for(tmp_path / "set", tmp_path, max_length=48), TextInput(bert_like(tmp_path / "tok"), 48))
    for split in ("validation", "test"):
        read: Split = getattr(data, split)
        right = references(read)
        assert right.contexts == published[split]["context"]
        assert right.answers == [answer["text"] for answer in published[split]["answers"]]
        assert right.example.dtype == np.int64 and np.array_equal(right.example, read.examples)
        assert read.truth is right


def test_references_stay_on_the_disk_until_they_are_asked(tmp_path: Path) -> None:
    settings = settings_for(write(tmp_path / "set", "train", make_questions(9)), tmp_path)
    folder = prepare(inspect(settings), settings, TextInput(bert_like(tmp_path / "tok"), 64), 0)
    (folder / "train_references.arrow").rename(folder / "away")
    train = open_data(folder, TASKS["question_answering"]).train
    train.batch(np.arange(3))
    (folder / "away").rename(folder / "train_references.arrow")
    assert len(references(train).contexts) == 9


@pytest.mark.parametrize("seed", [0, 1])
def test_whole_examples_are_held_out(seed: int, tmp_path: Path) -> None:
    questions = make_questions(50)
    settings = settings_for(
        write(tmp_path / "set", "train", questions), tmp_path, validation_fraction=0.3, max_length=40
    )
    data = prepared(settings, TextInput(bert_like(tmp_path / "tok"), 40), seed)
    assert data.validation is not None
    held, kept = set(data.validation.examples.tolist()), set(data.train.examples.tolist())
    assert not held & kept and held | kept == set(range(50)) and len(held) == 15
    assert len(data.validation) > 15
    right = references(data.validation)
    assert right.contexts == [questions["context"][number] for number in sorted(held)]
    assert [right.contexts[number] for number in right.example] == [
        questions["context"][number] for number in data.validation.examples
    ]


def test_windows_go_to_the_client_of_their_group(tmp_path: Path) -> None:
    questions = make_questions(40)
    column = {"kind": "by_column", "column": "user"}
    settings = settings_for(
        write(tmp_path / "set", "train", questions), tmp_path, validation_fraction=0.2, max_length=40, partition=column
    )
    data = prepared(settings, TextInput(bert_like(tmp_path / "tok"), 40))
    assert data.groups is not None and data.groups.tolist() == [number % 4 for number in data.train.examples]
    dealt = partition(settings.partition, data.train.labels, None, 0, data.groups, (), data.train.examples)
    assert dealt.num_clients == 4
    assert all(set(data.groups[dealt.client(k)]) == {k} for k in range(4)) and dealt.sizes.sum() == len(data.train)


@hypothesis_settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=6, max_size=60), seed=st.integers(0, 9))
def test_all_windows_of_an_example_go_to_one_client(sizes: list[int], seed: int) -> None:
    numbers = np.arange(0, 2 * len(sizes), 2)  # gaps, as after a hold-out
    examples = np.repeat(numbers, sizes)
    dealt = partition(IIDPartition(), np.zeros(len(examples)), 6, seed, None, (), examples)
    held = [set(examples[dealt.client(k)].tolist()) for k in range(6)]
    assert sum(len(own) for own in held) == len(set.union(*held)) == len(sizes)
    assert np.array_equal(np.sort(dealt.indices), np.arange(len(examples)))
    assert all((np.diff(dealt.client(k)) > 0).all() for k in range(6))
    assert max(len(own) for own in held) - min(len(own) for own in held) <= 1


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
def test_rows_that_are_examples_are_dealt_as_without_numbers(kind: str) -> None:
    labels = np.random.default_rng(0).integers(4, size=200)
    settings = CHOICE.validate_python(kind)
    plain = partition(settings, labels, 7, 3)
    numbered = partition(settings, labels, 7, 3, examples=np.arange(200))
    assert np.array_equal(plain.indices, numbered.indices) and np.array_equal(plain.offsets, numbered.offsets)


# --- mistakes ----------------------------------------------------------------------------------------------------

GOOD = at("the old city", "old")
BAD_ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "elsewhere": ({"text": ["old"], "answer_start": [5]}, "answer 'old' is not at character 5 of the context"),
    "before": ({"text": ["city"], "answer_start": [-4]}, "answer 'city' is not at character -4 of the context"),
    "empty": ({"text": [""], "answer_start": [0]}, "answer '' is not at character 0 of the context"),
    "second": ({"text": ["old", "x"], "answer_start": [4, 0]}, "answer 'x' is not at character 0 of the context"),
    "starts": ({"text": ["old"], "answer_start": []}, r"the answers need as many texts as starts, got \['old'\] and"),
    "null": ({"text": None, "answer_start": None}, "the answers need as many texts as starts, got None and None"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_an_answer_that_is_not_in_its_context_is_named_by_row(case: str, tmp_path: Path) -> None:
    bad, sentence = BAD_ANSWERS[case]
    columns = {"question": ["the"] * 2, "context": ["the old city"] * 2, "answers": [GOOD, GOOD], "user": ["u"] * 2}
    write(tmp_path / "set", "train", columns)
    write(tmp_path / "set", "test", {**columns, "answers": [GOOD, bad]})
    settings = settings_for(tmp_path / "set", tmp_path)
    with pytest.raises(UserMistake, match=f"^data.path: split 'test', row 1: {sentence}"):
        prepared(settings, TextInput(bert_like(tmp_path / "tok"), 64))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_question_that_leaves_no_room_for_windows_is_named_by_row(tmp_path: Path) -> None:
    columns = {
        "question": ["the", "t " * 9],
        "context": ["the old city"] * 2,
        "answers": [GOOD, GOOD],
        "user": ["u"] * 2,
    }
    settings = settings_for(write(tmp_path / "set", "train", columns), tmp_path, doc_stride=4, max_length=16)
    name = bert_like(tmp_path / "tok")
    sentence = "the question has 9 tokens, which leaves the context no more than doc_stride 4 of data.max_length 16"
    with pytest.raises(UserMistake, match=f"^data.path: split 'train', row 1: {sentence}; raise max_length$"):
        prepared(settings, TextInput(name, 16))
    assert len(prepared(settings, TextInput(name, 17)).train) >= 2


def test_windows_must_move_on(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{output: o, model: {family: bert}, federation: {num_clients: 2}}")
    with pytest.raises(UserMistake, match=r"data: doc_stride 32 must be smaller than max_length 32$"):
        load_settings(tmp_path / "a.yaml", ["data.doc_stride=32", "data.max_length=32"])


def test_the_stride_changes_the_folder(tmp_path: Path) -> None:
    folder, name = write(tmp_path / "set", "train", make_questions(9)), bert_like(tmp_path / "tok")
    folders = []
    for stride in (5, 6):
        settings = settings_for(folder, tmp_path, doc_stride=stride)
        folders.append(prepare(inspect(settings), settings, TextInput(name, 64), 0))
    assert folders[0] != folders[1]
