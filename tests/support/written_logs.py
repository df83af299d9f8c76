"""Logs as a server writes them, and what must be read back of them.

As a script it is the writer that the tests kill and starve: ``python written_logs.py PATH NUM_ROUNDS PAUSE_S``. It
prints the number of each round that is committed. Where a round cannot be written it prints ``full``, waits for a line,
and tries again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from raffm_mpi.log import LogNotWritten, Run, RunLog, open_run
from raffm_mpi.log.schema import TABLES

DIMENSIONS = ["residual", "head[0]", "ffn[0]"]
LABELS = ["cat", "dog"]
EVALUATED = ("evaluation", "metrics", "personal", "client_scores")
PER_ROUND = ("clients", "groups", "submodels", "rounds")
POPULATION = 400
ATTRIBUTES_GIVEN = {
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "commit": "0123abc",
    "hosts": ["node1", "node2"],
    "num_ranks": 3,
    "task": "text_classification",
    "metrics": ["accuracy", "f1"],
    "command": "raffm-mpi run config.yaml",
    "run_id": "4f2a",
    "devices": ["cpu"],
    "data_sha256": "cd" * 32,
    "devices_sha256": "01" * 32,
    "model_sha256": "ef" * 32,
}
RANKS = [(0, "node1", "cpu", "server"), (1, "node1", "cuda:0", "client group"), (2, "nœud2", "cpu", "client group")]
PARTITION = {"client": range(POPULATION), "num_examples": 7, "device": -1, "label_counts": [[3, 4]] * POPULATION}
DEVICES = {column.name: [number + 1, number + 2] for number, column in enumerate(TABLES["devices"].columns)}
DEVICES |= {"name": ["pi", "phone"]}
SHA256 = "ab" * 32


def create(path: Path, config: str = "seed: 0\n", **options) -> RunLog:
    given = {"dimensions": DIMENSIONS, "label_names": LABELS, "ranks": RANKS, "attributes": ATTRIBUTES_GIVEN}
    return RunLog.create(path, config=config, **{**given, **options})


def rows_of(name: str, round_: int) -> dict:
    """Rows that depend on nothing but the table and the round; up to 400 clients, so that chunks are crossed."""
    table = TABLES[name]
    num_clients = int(np.random.default_rng(round_).integers(1, POPULATION))
    rng = np.random.default_rng([round_, *name.encode()])
    fixed = {"rounds": 1, "submodels": 1, "personal": 1, "clients": num_clients, "groups": 2}
    length = fixed.get(name, int(rng.integers(1, 4)))
    rows = {}
    for column in table.columns:
        if column.name == "round":
            rows["round"] = round_
        elif column.name == "client":
            rows["client"] = rng.permutation(POPULATION)[:length]
        elif column.name == "submodel":
            rows["submodel"] = rng.integers(0, round_ + 1, length)
        elif column.members:
            rows[column.name] = rng.choice(column.members, length)
        elif column.dtype.startswith("S"):
            rows[column.name] = [f"é{round_} {number}" for number in range(length)]
        elif column.labels:
            rows[column.name] = rng.integers(0, 99, (length, {"dimensions": 3, "label_names": 2}[column.labels]))
        elif column.dtype.startswith("float"):
            rows[column.name] = rng.random(length).astype(column.dtype)
        else:
            rows[column.name] = rng.integers(0, 99, length)
    if name == "groups":
        rows |= {"group": [0, 1], "num_clients": [num_clients // 3, num_clients - num_clients // 3]}
    elif name == "submodels":
        rows["submodel"] = [round_]
    elif name == "events":
        rows["kind"] = rng.choice(["dropped", "retried", "repeated"], length)
    elif name == "evaluation":
        rows["split"] = ["validation", "test", "train"][:length]
    elif name == "rounds":
        clients = rows_of("clients", round_)
        trained = int((clients["status"] == "trained").sum())
        rows |= {"num_clients": num_clients, "num_trained": trained, "num_dropped": num_clients - trained}
        rows |= {key: clients[key].sum() for key in ("bytes_down", "bytes_up")}
    return rows


def append_round(log: RunLog, round_: int) -> None:
    """Everything of a round but its evaluation."""
    for name in ("events", *PER_ROUND):
        log.append(name, **rows_of(name, round_))


def write_rounds(log: RunLog, start: int, stop: int) -> None:
    """Rounds as a server writes them: an event before the round's end, and the evaluation after it."""
    for round_ in range(start, stop):
        log.append("clients", **rows_of("clients", round_))
        log.append("events", **rows_of("events", round_))
        log.commit()
        for name in PER_ROUND[1:]:
            log.append(name, **rows_of(name, round_))
        log.commit()
        for name in EVALUATED:
            log.append(name, **rows_of(name, round_))
        log.commit()


def write_whole(path: Path, num_rounds: int, status: str = "finished", sha256: str = SHA256) -> None:
    """A log in which all is well."""
    log = create(path, config=f"federation: {{num_rounds: {num_rounds}}}\n")
    log.append("partition", **PARTITION)
    write_rounds(log, 0, num_rounds)
    log.finish(status, sha256)


def expected(name: str, num_rounds: int) -> pd.DataFrame:
    frames = []
    for round_ in range(num_rounds):
        rows = rows_of(name, round_)
        if "sizes" in rows:
            rows |= dict(zip(DIMENSIONS, rows.pop("sizes").T, strict=True))
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)


def assert_whole_rounds(run: Run) -> int:
    """Every table shows the rows of the same rounds, and all of them; only the evaluation may lag and events lead."""
    num_rounds = len(run.rounds)
    for name in (*PER_ROUND, "events", *EVALUATED):
        table = getattr(run, name)
        table = table.astype({c.name: str for c in TABLES[name].columns if c.members})
        in_table = num_rounds if name in PER_ROUND else table["round"].nunique()
        lead = {**dict.fromkeys(EVALUATED, (-1, 0)), "events": (0, 1)}.get(name, (0, 0))
        assert num_rounds + lead[0] <= in_table <= num_rounds + lead[1]
        if in_table:
            pd.testing.assert_frame_equal(table, expected(name, in_table), check_dtype=False)
        else:
            assert table.empty
    return num_rounds


def read_everything(path: Path) -> None:
    with open_run(path) as run:
        assert_whole_rounds(run)


def used_bytes(path: Path, dataset: str) -> tuple[int, int]:
    """The first byte of a column's first chunk, and how many bytes of it hold committed rows or a compressed chunk."""
    table, _, _ = dataset.partition("/")
    with open_run(path) as run:
        column = run._file[dataset]
        rows = len(run.commits) if table == "committed" else run.num_rows[table]
        chunk = column.id.get_chunk_info(0)
        row_bytes = column.dtype.itemsize * int(np.prod(column.shape[1:]))
        used = chunk.size if column.compression else row_bytes * min(rows, column.chunks[0])
        return chunk.byte_offset, used


def flip_bit(path: Path, start: int, num_bytes: int, rng: np.random.Generator | None = None) -> None:
    """Flip one bit of a file, anywhere in these bytes."""
    rng = rng or np.random.default_rng(0)
    content = bytearray(path.read_bytes())
    content[start + int(rng.integers(num_bytes))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def start_writer(
    path: Path, num_rounds: int = 10**6, pause_s: float = 0.0, before: tuple[str, ...] = ()
) -> subprocess.Popen:
    """The writer in a process of its own, with the command ``before`` it that watches it."""
    command = [*before, sys.executable, __file__, str(path), str(num_rounds), str(pause_s)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)


def persist(step, *arguments):
    """Do it until it is written."""
    while True:
        try:
            return step(*arguments)
        except LogNotWritten as error:
            print("full:", error, flush=True)
            if not sys.stdin.readline():
                sys.exit("nobody makes space")


if __name__ == "__main__":
    path, num_rounds, pause_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    run_log = persist(lambda: create(path, config=f"federation: {{num_rounds: {num_rounds}}}\n"))
    commit = run_log.commit
    run_log.commit = lambda: persist(commit)
    run_log.append("partition", **PARTITION)
    for number in range(num_rounds):
        write_rounds(run_log, number, number + 1)
        print(number, flush=True)
        time.sleep(pause_s)
    persist(run_log.finish, "finished", SHA256)
