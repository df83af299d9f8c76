"""Check that a log holds what was written and agrees with itself: a sentence for each flaw."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from raffm_mpi.errors import UserMistake, sentence
from raffm_mpi.log.commit import Commit, Rows, checksum
from raffm_mpi.log.reader import LOG_ERRORS, Run, open_run
from raffm_mpi.log.schema import CLIENTS, TABLES

Array = np.ndarray[Any, Any]
KEYS = {  # columns that tell the rows of a table apart
    "clients": ("round", "client"),
    "groups": ("round", "group"),
    "evaluation": ("round", "submodel", "split"),
    "metrics": ("round", "submodel", "split", "metric"),
    "personal": ("round", "submodel"),
    "client_scores": ("round", "submodel", "client"),
}
NUM_NAMED = 5  # a sentence lists at most so many rounds, clients, …


def check_log(path: str | Path) -> list[str]:
    """A sentence for each flaw of a run's log; empty where there is none.

    Rows are compared with the checksums of their commits, and tables with each other. A damaged file raises nothing.
    """
    try:
        run = open_run(path)
    except UserMistake as error:
        return [str(error)]
    wrong: list[str] = []
    with run:
        for check in (_commits, _rounds, _per_round, _numbering, _references, _keys, _config, _end):
            try:
                wrong += check(run)
            except LOG_ERRORS as error:
                wrong.append(sentence(error))
    return list(dict.fromkeys(wrong))  # several checks may read the same damaged column


def broken_commits(run: Run, records: Array) -> list[int]:
    """Positions of the records whose checksum is not that of the record before and the rows that they show.

    Raises UserMistake where rows cannot be read.
    """
    rows = {name: run.rows(name) for name in TABLES}
    broken, before = [], Commit.of_record(np.zeros_like(records[0])) if len(records) else None
    for position, record in enumerate(records):
        commit = Commit.of_record(record)
        assert before is not None, "the first commit follows an empty one"
        if commit.crc32 != checksum(_shown(rows, before, commit), before.crc32):
            broken.append(position)
        before = commit
    return broken


def _shown(rows: Rows, before: Commit, commit: Commit) -> Rows:
    """The rows that a commit shows first."""
    spans = {name: slice(before.num_rows[name], commit.num_rows[name]) for name in TABLES}
    grown = [name for name, span in spans.items() if span.stop > span.start]
    return {name: {column: values[spans[name]] for column, values in rows[name].items()} for name in grown}


def _commits(run: Run) -> Iterator[str]:
    records = run.commits
    torn = np.flatnonzero(records[:, -1] != np.arange(1, len(records) + 1))
    if len(torn) == 1 and torn[0] == len(records) - 1 and records[-1, -1] == 0 and run.status == "running":
        records, torn = records[:-1], torn[:0]  # a killed writer leaves its last record incomplete
    if len(torn):
        yield f"the records of commits {_some(torn + 1)} are incomplete"
    if (np.diff(records[:, : len(TABLES)], axis=0, prepend=0) < 0).any():
        yield "rows were committed and later were not: the records of /committed are damaged"
    rounds = run.values("rounds", "round")
    starts = np.concatenate([[0], records[:, list(TABLES).index("rounds")]])
    for position in broken_commits(run, records):
        of = rounds[max(0, starts[position]) : max(0, starts[position + 1])]
        if len(of):
            span = f"rounds {of.min()} to {of.max()}"
        else:
            span = f"no round of its own, after {starts[position]} rounds"
        yield f"the checksum of commit {position + 1} ({span}) is not that of its rows: they were changed or damaged"


def _rounds(run: Run) -> Iterator[str]:
    rounds = run.values("rounds", "round")
    if not np.array_equal(rounds, np.arange(len(rounds))):
        out = np.flatnonzero(rounds != np.arange(len(rounds)))
        yield f"rounds do not count from 0 without a gap: rows {_some(out)} hold {_some(rounds[out])}"


def _dealt(groups: Mapping[str, np.ndarray], clients: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rounds and numbers of the clients that groups had, and of those that no group had."""
    alone = clients["round"][clients["group"] < 0]
    numbers = np.concatenate([groups["num_clients"], np.ones(len(alone), np.int64)])
    return np.concatenate([groups["round"], alone]), numbers


def _per_round(run: Run) -> Iterator[str]:
    """The row of a round in ``rounds`` agrees with its rows in other tables."""
    rounds, clients, groups = run.rows("rounds"), run.rows("clients"), run.rows("groups")
    statuses = {status: clients["status"] == code for code, status in enumerate(CLIENTS.column("status").members)}
    said = [
        ("clients", "rows", "num_clients", clients["round"], np.ones(len(clients["round"]), np.int64)),
        ("clients", "trained rows", "num_trained", clients["round"], statuses["trained"]),
        ("clients", "rows without an update", "num_dropped", clients["round"], ~statuses["trained"]),
        ("clients", "bytes_down", "bytes_down", clients["round"], clients["bytes_down"]),
        ("clients", "bytes_up", "bytes_up", clients["round"], clients["bytes_up"]),
        ("groups", "clients, with those of no group,", "num_clients", *_dealt(groups, clients)),
    ]
    numbers = rounds["round"]
    for table, rows in (("clients", clients), ("groups", groups)):
        strange = ~np.isin(rows["round"], numbers)
        if strange.any():
            yield f"{table} has rows of rounds that rounds lacks: {_some(rows['round'][strange])}"
    order = np.argsort(numbers, kind="stable")
    for table, what, column, of, values in said:
        sums = np.zeros(len(numbers), np.int64)
        known = np.isin(of, numbers)
        np.add.at(sums, order[np.searchsorted(numbers, of[known], sorter=order)], values[known].astype(np.int64))
        wrong = sums != rounds[column]
        if wrong.any():
            yield (
                f"{table} has {what} of {_some(sums[wrong])} in rounds {_some(numbers[wrong])}, "
                f"where rounds.{column} is {_some(rounds[column][wrong])}"
            )
    wrong = rounds["num_trained"] + rounds["num_dropped"] != rounds["num_clients"]
    if wrong.any():
        yield f"num_trained and num_dropped are not num_clients in rounds {_some(numbers[wrong])}"


def _numbering(run: Run) -> Iterator[str]:
    """Clients and sub-models are numbered from 0 on without a gap."""
    for table, column in (("partition", "client"), ("submodels", "submodel")):
        numbers = run.values(table, column)
        if not np.array_equal(numbers, np.arange(len(numbers))):
            yield f"{table}.{column} does not count from 0 without a gap"


def _references(run: Run) -> Iterator[str]:
    """Every client and sub-model that a row names has a row of its own."""
    for column, home in (("client", "partition"), ("submodel", "submodels")):
        known = run.values(home, column)
        for table in TABLES.values():
            if table.name in (home, "events") or column not in (c.name for c in table.columns):
                continue
            named = run.values(table.name, column)
            unknown = ~np.isin(named, known)
            if unknown.any():
                yield f"{table.name}.{column} names {_some(named[unknown])}, which {home} lacks"


def _keys(run: Run) -> Iterator[str]:
    for table, names in KEYS.items():
        columns = [run.values(table, name) for name in names]
        order = np.lexsort(columns[::-1])
        alike = [values[order[1:]] == values[order[:-1]] for values in columns]
        twice = order[1:][np.logical_and.reduce(alike)]
        if len(twice):
            rounds = np.unique(columns[0][twice])
            yield f"{table} has the same {', '.join(names)} more than once, in rounds {_some(rounds)}"


def _config(run: Run) -> Iterator[str]:
    if _settings(run) is None:
        yield "the attribute config is not a YAML mapping"


def _end(run: Run) -> Iterator[str]:
    if run.status != "finished":
        return
    if not re.fullmatch("[0-9a-f]{64}", str(run.attributes.get("final_model_sha256", ""))):
        yield "the run is finished, but its final_model_sha256 is not a SHA-256"
    federation = (_settings(run) or {}).get("federation")
    planned, found = federation.get("num_rounds") if isinstance(federation, dict) else None, run.num_rows["rounds"]
    if planned != found:
        yield f"the run is finished with {found} rounds, its config has federation.num_rounds {planned}"


def _settings(run: Run) -> dict[str, Any] | None:
    """The config, if it is a YAML mapping."""
    try:
        config = yaml.safe_load(str(run.attributes.get("config")))
    except yaml.YAMLError:
        return None
    return config if isinstance(config, dict) else None


def _some(values: Array) -> str:
    """The first of the values, and how many more there are."""
    named = ", ".join(str(value) for value in values[:NUM_NAMED].tolist())
    return named + (f" and {len(values) - NUM_NAMED} more" if len(values) > NUM_NAMED else "")
