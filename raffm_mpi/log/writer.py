"""The writer: rank 0 appends rows and commits whole rounds, so that a kill at any moment leaves only whole rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from raffm_mpi.errors import UserMistake
from raffm_mpi.log.check import broken_commits
from raffm_mpi.log.commit import Commit
from raffm_mpi.log.file import LogFile, disk_failures
from raffm_mpi.log.reader import Run, open_run
from raffm_mpi.log.rows import encode_rows
from raffm_mpi.log.schema import EVENTS, STATUSES, TABLES, log_file

GIVEN_BY_CALLER = ("versions", "commit", "hosts", "num_ranks", "command", "task", "metrics")
FOLLOWING = ("evaluation", "metrics", "personal", "client_scores", "checkpoints")  # written after their round
LASTING = ("warning", "recovery", "resumed", "interrupted")  # events that a resumed log keeps, even of later rounds

Columns = dict[str, np.ndarray[Any, Any]]
Ranks = Sequence[tuple[int, str, str, str]]


class RunLog:
    """The log of a run that goes on. Rows wait in memory for a commit; those of a round wait for its ``rounds`` row.

    Where the disk is full or lost, :meth:`commit` and :meth:`finish` raise LogNotWritten and may be called again: the
    log is then written anew from the committed rows and those that wait. ``submodels`` are the sizes of the sub-models
    that a resumed log kept, int32 [submodels, dimensions], in the order of their numbers.
    """

    def __init__(
        self, path: Path, file: LogFile, last: Commit, labels: Mapping[str, Sequence[str]], file_locking: bool
    ) -> None:
        self.path = path
        self.submodels = np.zeros((0, len(labels["dimensions"])), np.int32)
        self._file: LogFile | None = file  # None after a failure
        self._last = last
        self._labels = labels
        self._file_locking = file_locking
        self._waiting: dict[str, list[Columns]] = {}
        self._is_over = False

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        config: str,
        attributes: Mapping[str, Any],
        dimensions: Sequence[str],
        label_names: Sequence[str],
        ranks: Ranks,
        file_locking: bool = True,
    ) -> RunLog:
        """Create the log of a run at ``path`` (its folder, or ``run.h5`` in it); readers may follow it from then on.

        ``config`` is the resolved YAML. ``attributes`` holds those of :data:`GIVEN_BY_CALLER` (versions is a dict) and
        any others. ``dimensions`` and ``label_names`` name the columns of submodels/sizes and partition/label_counts;
        ``ranks`` are (rank, host, device, role). Raises UserMistake where there is a log already, and LogNotWritten
        where the disk is full or lost.
        """
        path = log_file(path)
        missing = [name for name in GIVEN_BY_CALLER if name not in attributes]
        assert not missing, f"attributes lack {missing}"
        if path.exists():
            raise UserMistake(f"'{path}' exists: resume that run, or choose another output folder")
        labels = {"dimensions": list(dimensions), "label_names": list(label_names)}
        own = {"config": config, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        rows = {"ranks": _rank_rows(ranks)}
        with disk_failures(path):
            made = LogFile.create(path, {**attributes, **own}, labels, file_locking, rows)
        return cls(path, *made, labels, file_locking)

    @classmethod
    def reopen(
        cls,
        path: str | Path,
        *,
        num_rounds: int,
        reevaluate: int | None = None,
        attributes: Mapping[str, Any] | None = None,
        ranks: Ranks | None = None,
        file_locking: bool = True,
    ) -> RunLog:
        """Resume a log with its first ``num_rounds`` rounds; rows of later rounds are left out.

        Evaluations after round ``reevaluate`` and later ones are left out too, for a run that repeats them. Events of
        the kinds in :data:`LASTING` are kept, whatever their round. The rows are copied to a new file that then
        replaces the old one, so that a kill loses nothing. ``attributes`` and ``ranks`` replace those of the last
        start. Raises UserMistake where the log cannot be read or holds fewer rounds, and LogNotWritten where the disk
        is full or lost.
        """
        path = log_file(path)
        with open_run(path) as old:
            found = int(np.count_nonzero(old.values("rounds", "round") < num_rounds))
            if found != num_rounds:
                raise UserMistake(f"'{path}' holds {found} committed rounds, not the {num_rounds} to resume from")
            labels = old.labels()
            rows = _resumed_rows(old, num_rounds, num_rounds if reevaluate is None else min(num_rounds, reevaluate))
            if ranks is not None:
                rows["ranks"] = _rank_rows(ranks)
            with disk_failures(path):
                made = LogFile.create(path, {**old.attributes, **(attributes or {})}, labels, file_locking, rows)
        log = cls(path, *made, labels, file_locking)
        log.submodels = rows["submodels"]["sizes"]
        return log

    def append(self, table: str, **columns: Any) -> None:
        """Add rows to a table: arrays or sequences of one length, and scalars, which stand for every row.

        They wait in memory for :meth:`commit`. Enumerations are given by the names of their members. A text that is too
        long is cut between characters.
        """
        assert not self._is_over, "the log was closed"
        rows = encode_rows(TABLES[table], columns, self._labels)
        self._waiting.setdefault(table, []).append(rows)

    def commit(self) -> None:
        """Write the appended rows and show them to readers; rows of a round wait until its ``rounds`` row is appended.

        Raises LogNotWritten where the disk is full or lost; the rows then go on waiting, and readers see the last
        commit.
        """
        assert not self._is_over, "the log was closed"
        round_done = "rounds" in self._waiting
        held = {name: rows for name, rows in self._waiting.items() if not round_done and TABLES[name].shown == "round"}
        shown = {name: _joined(rows) for name, rows in self._waiting.items() if name not in held}
        try:
            with disk_failures(self.path):
                if self._file is None:
                    self._file, self._last = self._recovered()
                commit = self._file.commit(self._last, shown)
                if round_done:
                    self._file.sync()
                self._file.check_place(self.path)
        except OSError:
            self._let_go()
            raise
        self._last, self._waiting = commit, held  # in one statement: an interrupt sees both or neither

    def finish(self, status: str, final_model_sha256: str | None = None) -> None:
        """Commit, set the status (finished, failed or interrupted) and close; raises as :meth:`commit`."""
        assert status in STATUSES[1:], f"status {status!r} is not one of {STATUSES[1:]}"
        self.commit()
        assert self._file is not None, "a commit leaves the file open"
        try:
            with disk_failures(self.path):
                self._file.close(status, final_model_sha256 or "")
        except OSError:
            self._let_go()
            raise
        self._file, self._is_over = None, True

    def abandon(self) -> None:
        """Close without a commit, as a kill would, whatever the state of the disk."""
        self._let_go()
        self._is_over = True

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.let_go()
        self._file = None

    def _recovered(self) -> tuple[LogFile, Commit]:
        """A new file that replaces the old one, with the rows of the last commit; OSError where these have changed."""
        with open_run(self.path) as old:
            records = old.commits[: self._last.number]
            if len(records) == 0 or records[-1].tolist() != self._last.record or broken_commits(old, records):
                raise OSError("its committed rows are no longer what was written")
            rows = {name: _first(old.rows(name), count) for name, count in self._last.num_rows.items()}
            return LogFile.create(self.path, old.attributes, self._labels, self._file_locking, rows)


def _resumed_rows(old: Run, num_rounds: int, num_followed: int) -> dict[str, Columns]:
    """The rows that a log resumed after so many rounds keeps of the old one, table by table."""
    kept: dict[str, Columns] = {}
    for name in TABLES:
        rows = old.rows(name)
        if "round" not in rows:
            kept[name] = rows
            continue
        mask = rows["round"] < (num_followed if name in FOLLOWING else num_rounds)
        if name == "events":
            mask |= np.isin(rows["kind"], [EVENTS.column("kind").members.index(kind) for kind in LASTING])
        if name == "submodels":
            mask = np.logical_and.accumulate(mask)  # the first ones: identifiers count from 0 without a gap
        kept[name] = {column: values[mask] for column, values in rows.items()}
    identifiers = kept["submodels"]["submodel"]
    if not np.array_equal(identifiers, np.arange(len(identifiers))):
        raise UserMistake(f"'{old.path}' is damaged: its sub-models are not numbered from 0 on")
    return kept


def _rank_rows(ranks: Ranks) -> Columns:
    names = [column.name for column in TABLES["ranks"].columns]
    return encode_rows(TABLES["ranks"], dict(zip(names, zip(*ranks, strict=True), strict=True)), {})


def _joined(blocks: Sequence[Columns]) -> Columns:
    """One array a column of what was appended in several calls."""
    return {name: np.concatenate([rows[name] for rows in blocks]) for name in blocks[0]}


def _first(rows: Columns, count: int) -> Columns:
    return {name: values[:count] for name, values in rows.items()}
