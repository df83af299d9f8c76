"""The log keeps whole rounds through kills, is followed while it grows, and says what is wrong with a broken file."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raffm_mpi.errors import UserMistake
from raffm_mpi.log import Run, RunLog, open_run
from raffm_mpi.log import schema as log_schema
from raffm_mpi.log.schema import ATTRIBUTES, EVENTS, TABLES
from support.written_logs import (
    ATTRIBUTES_GIVEN,
    DIMENSIONS,
    EVALUATED,
    LABELS,
    PARTITION,
    RANKS,
    SHA256,
    assert_whole_rounds,
    create,
    read_everything,
    rows_of,
    start_writer,
    write_rounds,
    write_whole,
)

DOCS = Path(__file__).parents[2] / "docs" / "log.md"


def killed_run(path: Path, delay_s: float) -> int:
    """Kill a writer so long after its first round; return how many rounds it said it had committed."""
    with start_writer(path) as writer:
        writer.stdout.readline()
        time.sleep(delay_s)
        writer.kill()
        return 1 + len(re.findall(r"\d+\n", writer.stdout.read()))


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_writer_leaves_whole_rounds(tmp_path, seed):
    num_told = killed_run(tmp_path, delay_s=random.Random(seed).uniform(0, 0.4))
    with open_run(tmp_path) as run:
        assert run.status == "running"
        assert assert_whole_rounds(run) in (num_told, num_told + 1)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace kills the writer at a chosen system call")
@pytest.mark.parametrize("num_writes", range(200, 300, 9))
def test_a_writer_killed_between_any_two_writes_leaves_whole_rounds(tmp_path, num_writes):
    kill = ["-e", "trace=pwrite64", "-e", f"inject=pwrite64:signal=KILL:when={num_writes}"]
    with start_writer(tmp_path, 1000, before=("strace", "-f", "-o", "/dev/null", *kill)) as writer:
        writer.communicate()
    with open_run(tmp_path) as run:
        assert assert_whole_rounds(run) < 3


def test_a_reader_follows_a_live_run(tmp_path):
    seen = [0]
    with start_writer(tmp_path, num_rounds=25, pause_s=0.02) as writer:
        writer.stdout.readline()
        while (run := open_run(tmp_path)).status == "running":
            with run:
                seen.append(assert_whole_rounds(run))
    with open_run(tmp_path) as run:
        assert assert_whole_rounds(run) == 25
    assert seen == sorted(seen)
    assert len(set(seen)) > 3, "the reader saw the run grow"


def test_an_open_run_keeps_showing_what_was_committed_when_it_was_opened(tmp_path):
    log = create(tmp_path)
    write_rounds(log, 0, 2)
    run = open_run(tmp_path)
    write_rounds(log, 2, 4)
    assert assert_whole_rounds(run) == 2
    log.finish("finished", "ab" * 32)
    assert len(run.partition) == 0


@pytest.mark.parametrize("killed", [False, True])
def test_a_resumed_log_equals_one_that_was_never_cut(tmp_path, killed):
    if killed:
        assert killed_run(tmp_path, delay_s=0.2) > 3
    else:
        log = create(tmp_path)
        log.append("partition", **PARTITION)
        write_rounds(log, 0, 6)
        log.finish("interrupted")
    log = RunLog.reopen(tmp_path, num_rounds=3)
    with open_run(tmp_path) as run:
        assert run.status == "running"
        assert len(run.events["round"].unique()) == len(run.evaluation["round"].unique()) == 3
        assert assert_whole_rounds(run) == 3
    write_rounds(log, 3, 5)
    log.finish("finished", "ab" * 32)
    with open_run(tmp_path) as run:
        assert assert_whole_rounds(run) == 5
        assert list(run.ranks.itertuples(index=False, name=None)) == RANKS
        assert list(run.partition["cat"]) == [3] * len(PARTITION["client"])


def resumed(path: Path, num_rounds: int, **options) -> tuple[RunLog, Run]:
    log = RunLog.reopen(path, num_rounds=num_rounds, **options)
    return log, open_run(path)


def test_a_resumed_log_leaves_out_the_evaluations_to_come_again(tmp_path):
    write_whole(tmp_path, 5)
    log, run = resumed(tmp_path, 4, reevaluate=3)
    for name in EVALUATED:
        assert list(getattr(run, name)["round"].unique()) == [0, 1, 2]
    assert list(run.rounds["round"]) == [0, 1, 2, 3]
    log.append("evaluation", **rows_of("evaluation", 3))
    log.finish("interrupted")
    log, run = resumed(tmp_path, 2, reevaluate=3)
    assert list(run.evaluation["round"].unique()) == [0, 1], "reevaluate keeps no round that is left out"
    log.abandon()


def test_a_resumed_log_remembers_what_befell_the_run_and_forgets_what_befell_lost_rounds(tmp_path):
    log = create(tmp_path)
    write_rounds(log, 0, 3)
    fate = ["recovery", "resumed", "interrupted", "warning"]
    for kind in EVENTS.column("kind").members:
        log.append("events", round=2, client=-1, rank=-1, kind=kind, message=f"of {kind}")
    log.finish("interrupted")
    log, run = resumed(tmp_path, 2)
    assert set(run.events.loc[run.events["round"] == 2, "kind"]) == set(fate)
    assert {0, 1} <= set(run.events["round"])
    log.abandon()


def test_a_resumed_log_keeps_the_checkpoints_of_its_rounds(tmp_path):
    log = create(tmp_path)
    for round_ in range(4):
        write_rounds(log, round_, round_ + 1)
        log.append("checkpoints", round=round_, model_sha256="cd" * 32, bytes=10**10, write_s=0.5)
    log.finish("interrupted")
    log, run = resumed(tmp_path, 3)
    assert list(run.checkpoints["round"]) == [0, 1, 2]
    assert set(run.checkpoints["model_sha256"]) == {"cd" * 32}
    log.abandon()


@pytest.mark.parametrize("num_rounds", [0, 1, 3])
def test_a_resumed_log_tells_the_sub_models_that_it_kept(tmp_path, num_rounds):
    write_whole(tmp_path, 3)
    log, run = resumed(tmp_path, num_rounds)
    assert log.submodels.shape == (num_rounds, 3)
    assert list(run.submodels["submodel"]) == list(range(num_rounds))
    np.testing.assert_array_equal(run.submodels[DIMENSIONS], log.submodels)
    log.abandon()


def test_a_run_resumed_before_its_first_round_keeps_its_partition_alone(tmp_path):
    write_whole(tmp_path, 2)
    log, run = resumed(tmp_path, 0, reevaluate=-1)
    assert {name for name, rows in run.num_rows.items() if rows} == {"partition", "ranks"}
    write_rounds(log, 0, 2)
    log.finish("finished", SHA256)
    read_everything(tmp_path)


def test_a_run_resumed_before_its_first_round_numbers_its_sub_models_anew(tmp_path):
    log = create(tmp_path)
    for number, round_ in enumerate([0, 0, -1]):  # two of the ladder, and one evaluated before the first round
        log.append("submodels", **rows_of("submodels", number) | {"round": round_})
    log.finish("interrupted")
    log, run = resumed(tmp_path, 0, reevaluate=-1)
    assert len(log.submodels) == len(run.submodels) == 0
    log.abandon()


def test_sub_models_are_shown_with_the_evaluation_that_names_them(tmp_path):
    log = create(tmp_path)
    log.append("submodels", **rows_of("submodels", 0))
    log.append("evaluation", **rows_of("evaluation", 0) | {"round": -1})
    log.commit()
    with open_run(tmp_path) as run:
        assert set(run.evaluation["submodel"]) <= set(run.submodels["submodel"])
    log.abandon()


def test_reopen_can_say_what_changed_with_the_new_start(tmp_path):
    create(tmp_path).finish("interrupted")
    RunLog.reopen(tmp_path, num_rounds=0, attributes={"num_ranks": 1}, ranks=RANKS[:1]).finish("failed")
    with open_run(tmp_path) as run:
        assert (run.status, run.attributes["num_ranks"], len(run.ranks)) == ("failed", 1, 1)
        assert run.attributes["versions"] == ATTRIBUTES_GIVEN["versions"]


def test_reopen_refuses_more_rounds_than_there_are(tmp_path):
    log = create(tmp_path)
    write_rounds(log, 0, 2)
    log.finish("interrupted")
    with pytest.raises(UserMistake, match="holds 2 committed rounds, not the 3"):
        RunLog.reopen(tmp_path, num_rounds=3)
    with open_run(tmp_path) as run:
        assert assert_whole_rounds(run) == 2


def test_a_kill_while_reopening_loses_nothing(tmp_path, monkeypatch):
    log = create(tmp_path)
    write_rounds(log, 0, 3)
    log.finish("interrupted")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        RunLog.reopen(tmp_path, num_rounds=1)
    monkeypatch.undo()
    with open_run(tmp_path) as run:
        assert assert_whole_rounds(run) == 3


def test_create_refuses_to_overwrite_a_log(tmp_path):
    create(tmp_path).finish("failed")
    with pytest.raises(UserMistake, match="exists: resume"):
        create(tmp_path)


def test_attributes_read_back(tmp_path):
    config = "note: " + "long " * 40_000  # above the 64 KiB that an HDF5 object header holds
    log = create(tmp_path, config=config, label_names=[f"label {i}" for i in range(9000)])
    with open_run(tmp_path) as run:
        assert "final_model_sha256" not in run.attributes
    log.finish("finished", "ab" * 32)
    with open_run(tmp_path / "run.h5") as run:
        assert run.status == "finished"
        assert run.config["note"] == config.removeprefix("note: ").strip()
        assert ATTRIBUTES_GIVEN.items() <= run.attributes.items()
        assert run.attributes["final_model_sha256"] == "ab" * 32
        assert pd.Timestamp(run.attributes["date"]).tzname() == "UTC"
        assert run.partition.columns[-1] == "label 8999"
        assert {name.split(".")[0] for name in ATTRIBUTES} == set(run.attributes)


def test_tables_without_labels_or_dimensions_work(tmp_path):
    log = create(tmp_path, dimensions=[], label_names=[])
    log.append("partition", client=[0, 1], num_examples=[5, 6], device=-1, label_counts=np.zeros((2, 0), int))
    log.finish("finished")
    with open_run(tmp_path) as run:
        assert list(run.partition["num_examples"]) == [5, 6]
        assert list(run.partition.columns) == ["client", "num_examples", "device"]


def test_a_round_of_three_clients_may_be_given_as_scalars_and_arrays(tmp_path):
    log = create(tmp_path)
    rows = {c.name: 7 for c in TABLES["clients"].columns} | {
        "client": [1, 2, 3],
        "status": "dropped",
        "last_loss": np.nan,
    }
    log.append("clients", **rows)
    log.append("rounds", **rows_of("rounds", 0))
    log.finish("finished")
    with open_run(tmp_path) as run:
        assert list(run.clients["client"]) == [1, 2, 3]
        assert list(run.clients["status"]) == ["dropped"] * 3
        assert list(run.clients["group"]) == [7, 7, 7]


@pytest.mark.parametrize(
    "change",
    [
        {"message": None},
        {"extra": 1},
        {"kind": "explosion"},
        {"round": 1.5},
        {"round": 2**40},
        {"round": [1, 2], "rank": [1, 2, 3]},
        {"round": [[1]]},
    ],
    ids=str,
)
def test_append_refuses_what_the_schema_does_not_allow(tmp_path, change):
    log = create(tmp_path)
    row = {"round": 0, "client": -1, "rank": -1, "kind": "warning", "message": "m"}
    log.append("events", **row)
    changed = {name: value for name, value in {**row, **change}.items() if value is not None}
    with pytest.raises(AssertionError):
        log.append("events", **changed)
    log.finish("failed")
    with open_run(tmp_path) as run:
        assert len(run.events) == 1


def test_append_takes_numbers_for_numbers_only(tmp_path):
    log = create(tmp_path)
    with pytest.raises(AssertionError, match=r"evaluation\.loss is float64"):
        log.append("evaluation", **{**rows_of("evaluation", 0), "loss": "0.5"})
    log.finish("failed")


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=300), st.integers(0, 600))
def test_text_is_cut_between_characters(text, num_bytes):
    from raffm_mpi.log.rows import cut

    short = cut(text, num_bytes).decode("utf-8")
    assert text.startswith(short)
    assert short == text or num_bytes - 4 < len(short.encode()) <= num_bytes


def test_long_messages_and_odd_characters_are_logged(tmp_path):
    log = create(tmp_path)
    messages = ["€" * 300, "x" * 512, "\udcff lone surrogate", ""]
    log.append("events", round=0, client=-1, rank=-1, kind="warning", message=messages)
    log.finish("finished")
    with open_run(tmp_path) as run:
        assert list(run.events["message"]) == ["€" * 170, "x" * 512, "? lone surrogate", ""]


def test_three_rounds_make_a_small_file(tmp_path):
    log = create(tmp_path)
    write_rounds(log, 0, 3)
    log.finish("finished")
    assert (tmp_path / "run.h5").stat().st_size < 400_000


@pytest.mark.parametrize("locking", ["TRUE", "FALSE"])
def test_file_locks_can_be_switched_off(tmp_path, monkeypatch, locking):
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", locking)
    log = create(tmp_path, file_locking=locking == "TRUE")
    write_rounds(log, 0, 1)
    with open_run(tmp_path) as run:
        assert assert_whole_rounds(run) == 1
    log.finish("finished")


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserMistake, match=r"run\.h5' does not exist"):
        open_run(tmp_path)
    (tmp_path / "run.h5").write_text("seed: 0")
    with pytest.raises(UserMistake, match="is not an HDF5 file"):
        open_run(tmp_path)
    with h5py.File(tmp_path / "foreign.h5", "w"):
        pass
    with pytest.raises(UserMistake, match="is no raffm_mpi log"):
        open_run(tmp_path / "foreign.h5")


@pytest.mark.parametrize(("step", "other"), [(1, "a newer"), (-1, "an older")])
def test_another_schema_is_refused(tmp_path, step, other):
    create(tmp_path).finish("finished")
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        file.attrs["schema_version"] = log_schema.SCHEMA_VERSION + step
    with pytest.raises(UserMistake, match=f"written by {other} raffm_mpi"):
        open_run(tmp_path)


@pytest.mark.parametrize("killed", [False, True])
def test_a_truncated_file_is_refused_soon_and_never_read_as_zeros(tmp_path, killed):
    log = create(tmp_path / "whole.h5")
    write_rounds(log, 0, 20)
    content = (tmp_path / "whole.h5").read_bytes()
    log.finish("finished")
    if not killed:
        content = (tmp_path / "whole.h5").read_bytes()
    for seed in range(20):
        cut = tmp_path / "cut.h5"
        cut.write_bytes(content[: random.Random(seed).randrange(8, len(content) - 2048)])
        with pytest.raises(UserMistake, match=r"truncated|damaged"):
            read_everything(cut)


def test_plain_h5py_reads_columns_with_their_units(tmp_path):
    log = create(tmp_path)
    write_rounds(log, 0, 1)
    log.finish("finished")
    with h5py.File(tmp_path / "run.h5") as file:
        for table in TABLES.values():
            for column in table.columns:
                dataset = file[table.name][column.name]
                assert dataset.attrs["unit"] == column.unit
                assert dataset.attrs["description"] == column.description
                assert dataset.dtype == column.storage
        assert list(file["submodels/sizes"].attrs["dimensions"]) == DIMENSIONS
        assert list(file["partition/label_counts"].attrs["label_names"]) == LABELS
        assert h5py.check_enum_dtype(file["events/kind"].dtype)["warning"] == EVENTS.column("kind").members.index(
            "warning"
        )


def test_names_carry_their_units():
    for table in TABLES.values():
        for column in table.columns:
            assert re.fullmatch("[a-z][a-z0-9_]*", column.name)
            unit = {"s": "s", "bytes": "bytes", "flops": "FLOP", "parameters": "parameters"}
            for part, value in unit.items():
                if column.name.endswith(f"_{part}") or column.name.startswith(f"{part}_") or column.name == part:
                    rate = column.name.endswith("_per_s")
                    assert column.unit.endswith("/s") if rate else column.unit == value, column.name
            if column.name.startswith("num_"):
                assert column.unit in (column.name.removeprefix("num_"), "clients"), column.name


def test_docs_log_md_documents_exactly_the_schema():
    text = DOCS.read_text(encoding="utf-8")
    _, _, after = text.partition("<!-- made by: python -m raffm_mpi.log -->\n\n")
    schema, _, _ = after.partition("\n<!-- end -->")
    assert schema == log_schema.describe(), "run python -m raffm_mpi.log and paste what it prints"
    printed = subprocess.run([sys.executable, "-m", "raffm_mpi.log"], capture_output=True, text=True, check=True).stdout
    assert printed == schema
