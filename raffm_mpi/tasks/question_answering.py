"""Extractive question answering (SQuAD v1.1 and v2): a question, a context, and where in it the answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from raffm_mpi.config import DataSettings
from raffm_mpi.data import Columns, DataInfo, ImageInput, Reader, Split, TextInput
from raffm_mpi.data.columns import STRINGS, ColumnType, image_columns, is_string, is_whole, only
from raffm_mpi.data.formats import ArrayFile, open_array
from raffm_mpi.data.labels import read_column
from raffm_mpi.data.ragged import Ragged, RaggedFile
from raffm_mpi.data.texts import TokenWriter, text_batches, token_tensors
from raffm_mpi.data.unreadable import Unreadable
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks.answers import OF_ANSWERS, best_spans, score_answers
from raffm_mpi.tasks.base import Role, Task
from raffm_mpi.tasks.metrics import columns_of

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from pyarrow import RecordBatchFileWriter, Schema, Table
    from transformers import BatchEncoding

NO_ANSWERS: Mapping[str, Sequence[Any]] = {"text": [], "answer_start": []}
OUTSIDE = -1  # in place of a character, for tokens outside the context


def _are_answers(feature: Any) -> bool:
    parts = feature if isinstance(feature, dict) else {}
    types = {name: getattr(part, "feature", None) for name, part in parts.items()}
    return is_string(types.get("text")) and is_whole(types.get("answer_start"))


ANSWERS = ColumnType("answers of the form {text: [strings], answer_start: [whole numbers]}", _are_answers)


class QuestionAnswering(Task):
    """Columns of questions, contexts and answers; a row is a window of a context."""

    name = "question_answering"
    roles: ClassVar[Mapping[str, Role]] = {
        "question": Role(STRINGS),
        "context": Role(STRINGS),
        "answers": Role(ANSWERS),
    }

    def claims(self, features: Features, named: Columns) -> bool:
        """One of the columns is named, or nothing is named and there are all three, and no images."""
        if named.roles:
            return bool(named.roles.keys() & self.roles.keys())
        return self.roles.keys() <= set(features) and not image_columns(features)

    def find(self, features: Features, named: Columns) -> Mapping[str, str]:
        """Each column is called as its role unless it is named."""
        called = {role: named.one(role) or role for role in self.roles}
        return {role: only(role, [name] if name in features else [], features) for role, name in called.items()}

    def is_withheld(self, split: Dataset, columns: Columns, names: Sequence[str]) -> bool:
        """There are no answers at all."""
        import pyarrow.compute as pc

        texts = pc.struct_field(read_column(split, columns.of("answers")), "text")
        return not np.asarray(pc.fill_null(pc.list_value_length(texts), 0)).any()

    def writer(self, inputs: ImageInput | TextInput, settings: DataSettings) -> TokenWriter:
        assert isinstance(inputs, TextInput)
        return QuestionWriter(inputs, settings)

    def reader(self, folder: Path, role: str, meta: dict[str, Any]) -> Reader:
        return QuestionReader(folder, role, meta)

    def head(self, columns: Columns) -> str:
        return "QuestionAnswering"

    def config(self, info: DataInfo) -> dict[str, Any]:
        return {"num_labels": 2}

    def predictions(self, info: DataInfo) -> tuple[str, ...]:
        return OF_ANSWERS

    def predict(self, outputs: Any, batch: Mapping[str, torch.Tensor], split: Split, rows: np.ndarray) -> np.ndarray:
        """The loss and :func:`best_spans` of each window."""
        start = functional.cross_entropy(outputs.start_logits, batch["start_positions"], reduction="none")
        end = functional.cross_entropy(outputs.end_logits, batch["end_positions"], reduction="none")
        spans = spans_of(split, rows)
        best = best_spans(outputs.start_logits, outputs.end_logits, spans)
        return np.column_stack([columns_of((start + end) / 2), best])

    def metrics(self, info: DataInfo, subset: str | None = None) -> tuple[str, ...]:
        """Of the words of an answer."""
        return "f1", "exact_match"

    def score(
        self, info: DataInfo, metrics: Sequence[str], predictions: np.ndarray, split: Split, rows: np.ndarray
    ) -> dict[str, float]:
        """By example, not by window; where a set has both kinds of questions also of each kind."""
        right: References = split.truth
        examples, example_of_window = np.unique(right.example[rows], return_inverse=True)
        scores = score_answers(
            predictions,
            example_of_window,
            [right.contexts[example] for example in examples],
            [right.answers[example] for example in examples],
            may_be_unanswerable=not all(right.answers),
        )
        return {name: scores[name] for name in ("loss", *metrics)} | scores


@dataclass(frozen=True)
class References:
    """What is right: ``example`` (int64 [N]) of each window; the context and the answers of each example.

    Examples are numbered from 0 in the order of the split. No answers: the question cannot be answered.
    """

    example: np.ndarray
    contexts: list[str]
    answers: list[list[str]]


class QuestionWriter(TokenWriter):
    """Writes windows: the question, and as much of the context as ``max_length`` leaves room for.

    Successive windows share ``doc_stride`` tokens of the context. Beside the tokens: ``ROLE_spans.npy``
    (int32 [tokens, 2]), ``ROLE_positions.npy`` (int32 [windows, 2]), ``ROLE_examples.npy`` (int64 [windows]) and
    ``ROLE_references.arrow`` (a row an example).
    """

    def __init__(self, inputs: TextInput, settings: DataSettings) -> None:
        super().__init__(inputs, settings)
        self._tokenizer.truncation_side = "right"  # else the windows of a context come last first
        self._stride = settings.doc_stride or inputs.max_length // 4
        self.identity.append(self._stride)

    def write(self, folder: Path, role: str, examples: Dataset, columns: Columns, unreadable: Unreadable) -> None:
        made_of = [np.zeros(0, dtype=np.int64)]
        names = [columns.of(role) for role in ("question", "context", "answers")]
        with ExitStack() as stack:
            shapes: dict[str, tuple[int, ...]] = {**dict.fromkeys(self.padding, ()), "spans": (2,)}
            windows_file = stack.enter_context(RaggedFile(folder, role, shapes))
            positions_file = stack.enter_context(ArrayFile(folder / f"{role}_positions.npy", np.int32, (2,)))
            references = stack.enter_context(_references_file(folder / f"{role}_references.arrow"))
            for start, batch in text_batches(examples, names, unreadable):
                questions, contexts, given = batch.values()
                answers = _right_answers(contexts, given, start, unreadable)
                windows = self._windows(questions, contexts, start, unreadable.where)
                numbers = np.array(windows["overflow_to_sample_mapping"], dtype=np.int64)
                spans = [_context_spans(windows, row) for row in range(len(numbers))]
                windows_file.append({**{name: windows[name] for name in self.padding}, "spans": spans})
                ranges = [_answer_range(answer) for answer in answers]
                positions = [answer_positions(span, ranges[n]) for span, n in zip(spans, numbers, strict=True)]
                positions_file.append(np.array(positions))
                made_of.append(start + numbers)
                references.write_table(_references_table(contexts, answers))
        np.save(folder / f"{role}_examples.npy", np.concatenate(made_of))

    def _windows(self, questions: list[str], contexts: list[str], start: int, where: str) -> BatchEncoding:
        """All windows of some examples, in order; refuses a question that leaves no room for the context."""
        special = self._tokenizer.num_special_tokens_to_add(pair=True)
        for number, ids in enumerate(self._tokenizer(questions, add_special_tokens=False)["input_ids"]):
            if self._max_length - special - len(ids) <= self._stride:
                raise UserMistake(
                    f"{where}, row {start + number}: the question has {len(ids)} tokens, which leaves the context no "
                    f"more than doc_stride {self._stride} of data.max_length {self._max_length}; raise max_length"
                )
        windows: BatchEncoding = self._tokenizer(
            questions,
            contexts,
            truncation="only_second",
            max_length=self._max_length,
            stride=self._stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        return windows


class QuestionReader(Reader):
    """Reads windows: tokens as of a pair of texts, ``start_positions`` and ``end_positions`` (int64 [B])."""

    def __init__(self, folder: Path, role: str, meta: dict[str, Any]) -> None:
        self._tokens = Ragged(folder, role, meta["padding"])
        self._spans = Ragged(folder, role, {"spans": OUTSIDE})
        self._positions = open_array(folder / f"{role}_positions.npy")
        self._references = folder / f"{role}_references.arrow"

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        starts, ends = torch.from_numpy(self._positions[rows]).long().unbind(1)
        return {**token_tensors(self._tokens, rows), "start_positions": starts, "end_positions": ends}

    def mean_length(self, rows: np.ndarray) -> float:
        return self._tokens.mean_length(rows)

    def spans(self, rows: np.ndarray) -> np.ndarray:
        """The characters of the context that each token stands for, int64 [B, L, 2]; -1 for other tokens."""
        return self._spans.padded(rows)[1]["spans"].numpy()

    def truth(self, rows: np.ndarray, examples: np.ndarray) -> References:
        used, numbers = np.unique(examples, return_inverse=True)
        table = _read_references(self._references).take(used)
        return References(numbers, table.column("context").to_pylist(), table.column("answers").to_pylist())


def spans_of(split: Split, rows: np.ndarray) -> np.ndarray:
    """The first character of the context of each token of a batch and the one after its last, int64 [B, L, 2].

    -1 for tokens outside the context.
    """
    assert isinstance(split.reader, QuestionReader)
    return split.reader.spans(split.rows[rows])


def answer_positions(spans: np.ndarray, answer: tuple[int, int] | None) -> tuple[int, int]:
    """The first and last token of an answer, given as its first character and the one after its last.

    ``spans`` (int [L, 2]) are of a window's tokens. (0, 0) where there is no answer or not all of it in the window.

    >>> answer_positions(np.array([[-1, -1], [0, 2], [3, 7], [7, 9], [-1, -1]]), (3, 9))
    (2, 3)
    """
    inside = np.flatnonzero(spans[:, 0] >= 0)
    if answer is None or not len(inside):
        return 0, 0
    starts, ends = spans[inside].T
    if answer[0] < starts[0] or answer[1] > ends[-1]:
        return 0, 0
    first = int(np.searchsorted(ends, answer[0], side="right"))
    last = int(np.searchsorted(starts, answer[1], side="left")) - 1
    return int(inside[first]), int(inside[last])


def _context_spans(windows: BatchEncoding, row: int) -> np.ndarray:
    """The characters of the context that each token of a window stands for, int64 [L, 2]; -1 for other tokens."""
    in_context = np.array([sequence == 1 for sequence in windows.sequence_ids(row)])
    return np.where(in_context[:, None], np.array(windows["offset_mapping"][row]).reshape(-1, 2), OUTSIDE)


def _answer_range(answers: Mapping[str, Sequence[Any]]) -> tuple[int, int] | None:
    """The characters of the first answer, without white space around it; None where there is none."""
    if not answers["text"]:
        return None
    text: str = answers["text"][0]
    start = answers["answer_start"][0] + len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _right_answers(
    contexts: list[str], answers: list[Mapping[str, Any]], start: int, unreadable: Unreadable
) -> list[Mapping[str, Any]]:
    """The answers, with none in place of those that are wrong, whose examples are marked."""
    right = []
    for row, (context, answer) in enumerate(zip(contexts, answers, strict=True), start):
        mistake = _mistake(context, answer or NO_ANSWERS)
        if mistake is not None:
            unreadable.mark(row, mistake)
        right.append(NO_ANSWERS if row in unreadable else answer)
    return right


def _mistake(context: str, answers: Mapping[str, Any]) -> str | None:
    texts, starts = answers["text"], answers["answer_start"]
    if texts is None or starts is None or len(texts) != len(starts):
        return f"the answers need as many texts as starts, got {texts!r} and {starts!r}"
    for text, first in zip(texts, starts, strict=True):
        if not text or not text.strip() or first is None or first < 0 or not context.startswith(text, first):
            return f"answer {text!r} is not at character {first} of the context"
    return None


def _references_schema() -> Schema:
    import pyarrow as pa

    return pa.schema({"context": pa.large_string(), "answers": pa.large_list(pa.large_string())})


def _references_file(path: Path) -> RecordBatchFileWriter:
    import pyarrow as pa

    return pa.ipc.new_file(str(path), _references_schema())


def _references_table(contexts: list[str], answers: list[Mapping[str, Any]]) -> Table:
    import pyarrow as pa

    texts = [answer["text"] for answer in answers]
    return pa.table({"context": contexts, "answers": texts}, schema=_references_schema())


def _read_references(path: Path) -> Table:
    """All references, memory-mapped: those that are not taken stay on the disk."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
