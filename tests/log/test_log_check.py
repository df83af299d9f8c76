"""A log is checked: what was changed after it was written, and what does not agree with itself, is named."""

from __future__ import annotations

import re
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from raffm_mpi.log import check_log, open_run
from raffm_mpi.log.commit import COLUMNS, Commit, checksum
from raffm_mpi.log.schema import TABLES
from support.written_logs import (
    DEVICES,
    PARTITION,
    SHA256,
    append_round,
    create,
    flip_bit,
    rows_of,
    used_bytes,
    write_rounds,
)

DATASETS = [f"{table.name}/{column.name}" for table in TABLES.values() for column in table.columns] + ["committed"]
NUM_ROUNDS = 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A finished log in which all is well, with rows in every table."""
    path = tmp_path_factory.mktemp("log") / "run.h5"
    log = create(path, config=f"federation: {{num_rounds: {NUM_ROUNDS}}}\n")
    log.append("partition", **PARTITION)
    log.append("devices", **DEVICES)
    log.append("checkpoints", **rows_of("checkpoints", 0))
    write_rounds(log, 0, NUM_ROUNDS)
    log.finish("finished", SHA256)
    assert check_log(path) == []
    return path.read_bytes()


@pytest.fixture
def log_path(tmp_path, whole) -> Path:
    (tmp_path / "run.h5").write_bytes(whole)
    return tmp_path / "run.h5"


def seal(path: Path) -> None:
    """Give rows that were changed one commit with a right checksum, as if they had been written so."""
    with h5py.File(path, "r+") as file:
        rows = {t.name: {c.name: file[t.name][c.name][:] for c in t.columns} for t in TABLES.values()}
        counts = {name: len(next(iter(columns.values()))) for name, columns in rows.items()}
        file["committed"].resize(1, axis=0)
        file["committed"][0] = Commit(1, counts, checksum(rows, 0)).record


def test_the_checksum_of_a_commit_is_that_of_its_rows_after_the_commits_before(log_path):
    with open_run(log_path) as run:
        rows = {name: run.rows(name) for name in TABLES}
        crc, before = 0, dict.fromkeys(TABLES, 0)
        for commit in map(Commit.of_record, run.commits):
            new = {
                name: {column: values[before[name] : commit.num_rows[name]] for column, values in columns.items()}
                for name, columns in rows.items()
            }
            crc = checksum(new, crc)
            assert commit.crc32 == crc
            before = commit.num_rows


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_flipped_bit_is_found(log_path, whole, dataset):
    start, num_bytes = used_bytes(log_path, dataset)
    assert num_bytes > 0
    for seed in range(4):
        log_path.write_bytes(whole)
        flip_bit(log_path, start, num_bytes, np.random.default_rng(seed))
        if not check_log(log_path):
            assert is_compressed_as_before(log_path, whole, dataset)


def is_compressed_as_before(path: Path, whole: bytes, dataset: str) -> bool:
    """Whether a flipped bit was one that means nothing in a compressed chunk: the column reads as it was written."""
    (path.parent / "whole.h5").write_bytes(whole)
    with h5py.File(path) as file, h5py.File(path.parent / "whole.h5") as other:
        return bool(file[dataset].compression) and np.array_equal(file[dataset][:], other[dataset][:])


def test_a_broken_checksum_names_the_commit_and_its_rounds(log_path):
    with h5py.File(log_path, "r+") as file:
        file["rounds/learning_rate"][2] += 1
    with open_run(log_path) as run:
        number = int(np.flatnonzero(run.commits[:, COLUMNS.index("rounds")] == 3)[0]) + 1
    assert check_log(log_path) == [
        f"the checksum of commit {number} (rounds 2 to 2) is not that of its rows: they were changed or damaged"
    ]


def change(dataset: str, row: int, value):
    """An edit of one value, or by one where that is a function."""

    def edit(file: h5py.File) -> None:
        file[dataset][row] = value(file[dataset][row]) if callable(value) else value

    edit.__name__ = f"{dataset}[{row}]"
    return edit


def more(value):
    return value + 1


def flipped(code):
    """Dropped where it was trained, trained where it was anything else."""
    return int(not code)


def repeat_row(table: str, row: int):
    """An edit that adds a copy of a row."""

    def edit(file: h5py.File) -> None:
        for dataset in file[table].values():
            dataset.resize(dataset.shape[0] + 1, axis=0)
            dataset[-1] = dataset[row]

    edit.__name__ = f"repeat {table}[{row}]"
    return edit


def attribute(name: str, value: str):
    def edit(file: h5py.File) -> None:
        file.attrs[name] = value

    edit.__name__ = f"{name}={value[:9]}"
    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (change("rounds/num_clients", 1, more), "clients has rows of .* where rounds.num_clients is"),
        (change("rounds/num_trained", 1, more), "clients has trained rows of"),
        (change("rounds/num_dropped", 1, more), "num_trained and num_dropped are not num_clients in rounds 1$"),
        (
            change("clients/status", 0, lambda code: int(not code)),
            "clients has rows without an update of .* in rounds 0,",
        ),
        (change("groups/num_clients", 3, more), "groups has clients, with those of no group, of .* in rounds 1, where"),
        (change("rounds/bytes_down", 2, more), "clients has bytes_down of .* in rounds 2,"),
        (change("clients/bytes_up", 0, more), "clients has bytes_up of .* in rounds 0,"),
        (change("clients/round", 0, 77), "clients has rows of rounds that rounds lacks: 77"),
        (change("partition/client", 7, 8), "partition.client does not count"),
        (change("clients/client", 0, 400), "clients.client names 400, which partition lacks"),
        (change("clients/client", 0, -1), "clients.client names -1, which partition lacks"),
        (change("clients/submodel", 0, 4), "clients.submodel names 4, which submodels lacks"),
        (change("evaluation/submodel", 0, 9), "evaluation.submodel names 9, which submodels lacks"),
        (change("submodels/submodel", 2, 1), "submodels.submodel does not count"),
        (change("rounds/round", 3, 2), "rounds do not count from 0 without a gap: rows 3 hold 2"),
        (change("rounds/round", 0, 5), "rounds do not count from 0"),
        (repeat_row("rounds", 1), "rounds do not count from 0"),
        (repeat_row("clients", 0), "clients has the same round, client more than once, in rounds 0"),
        (repeat_row("groups", 2), "groups has the same round, group more than once, in rounds 1"),
        (repeat_row("evaluation", 0), "evaluation has the same round, submodel, split more than once, in rounds 0"),
        (repeat_row("metrics", 0), "metrics has the same"),
        (repeat_row("personal", 0), "personal has the same"),
        (repeat_row("client_scores", 0), "client_scores has the same"),
        (attribute("config", "[1, 2]"), "config is not a YAML mapping"),
        (attribute("config", "a: [1"), "config is not a YAML mapping"),
        (attribute("config", "federation: {num_rounds: 9}"), "finished with 4 rounds, .*num_rounds 9"),
        (attribute("config", "federation: 3"), "finished with 4 rounds, .*num_rounds None"),
        (attribute("final_model_sha256", "AB" * 32), "final_model_sha256 is not a SHA-256"),
        (attribute("final_model_sha256", ""), "final_model_sha256 is not a SHA-256"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_disagreement_is_named(log_path, edit, said):
    with h5py.File(log_path, "r+") as file:
        edit(file)
    seal(log_path)
    sentences = check_log(log_path)
    assert any(re.search(said, sentence) for sentence in sentences), sentences
    assert not any("checksum" in sentence for sentence in sentences), "only the checksums were mended"
    assert all("\n" not in sentence for sentence in sentences)


def test_a_record_that_was_lost_among_others_is_named(log_path):
    with h5py.File(log_path, "r+") as file:
        file["committed"][5, -1] = 0
    assert "the records of commits 6 are incomplete" in check_log(log_path)


def test_a_commit_that_a_kill_cut_short_is_no_damage(tmp_path):
    log = create(tmp_path)
    log.append("partition", **PARTITION)
    write_rounds(log, 0, 2)
    log._file._file["committed"].resize(log._last.number + 1, axis=0)
    log._file._file.flush()
    log.abandon()
    with open_run(tmp_path) as run:
        assert list(run.commits[-1]) == [0] * len(COLUMNS)
    assert check_log(tmp_path) == []


@pytest.mark.parametrize("num_rounds", [0, 1, 3])
def test_a_run_under_way_is_well(tmp_path, num_rounds):
    log = create(tmp_path)
    assert check_log(tmp_path) == []
    log.append("partition", **PARTITION)
    write_rounds(log, 0, num_rounds)
    assert check_log(tmp_path) == []
    append_round(log, num_rounds)
    log.commit()
    log.finish("interrupted")
    assert check_log(tmp_path) == []


def test_a_log_cut_anywhere_gives_sentences_and_no_traceback(log_path, whole):
    for length in np.random.default_rng(0).integers(0, len(whole) - 2048, 40):
        log_path.write_bytes(whole[:length])
        sentences = check_log(log_path)
        assert sentences
        assert all(isinstance(sentence, str) and "\n" not in sentence for sentence in sentences)


def test_bytes_overwritten_anywhere_give_sentences_or_nothing_and_no_traceback(log_path, whole):
    rng = np.random.default_rng(1)
    for start in rng.integers(0, len(whole) - 64, 12):
        content = bytearray(whole)
        content[start : start + 64] = rng.bytes(64)
        log_path.write_bytes(content)
        assert all("\n" not in sentence for sentence in check_log(log_path))


def test_no_log_is_one_sentence(tmp_path):
    (sentence,) = check_log(tmp_path)
    assert "does not exist" in sentence


def test_a_long_log_is_checked_in_seconds(tmp_path):
    num_rounds, num_clients = 500, 1000
    log = create(tmp_path, config=f"federation: {{num_rounds: {num_rounds}}}\n")
    count = np.arange(num_clients)
    log.append("partition", client=count, num_examples=1, device=-1, label_counts=[[1, 0]] * num_clients)
    log.append("submodels", **rows_of("submodels", 0))
    fixed = {column.name: 0 for column in TABLES["clients"].columns} | {"client": count, "status": "trained"}
    row = {column.name: 0 for column in TABLES["rounds"].columns}
    row |= {"num_clients": num_clients, "num_trained": num_clients}
    group = {column.name: 0 for column in TABLES["groups"].columns} | {"num_clients": num_clients}
    for round_ in range(num_rounds):
        for name, rows in (("clients", fixed), ("rounds", row), ("groups", group)):
            log.append(name, **rows | {"round": round_})
        log.commit()
    log.finish("finished", SHA256)
    start = time.process_time()
    assert check_log(tmp_path) == []
    assert time.process_time() - start < 10  # of a processor, whatever else it does
