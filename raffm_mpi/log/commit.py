"""A commit: the number of rows of each table that readers see, and a checksum of all these rows."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raffm_mpi.log.schema import TABLES

COLUMNS = (*TABLES, "crc32", "commit")  # of /committed; the last one makes a record complete

Rows = Mapping[str, Mapping[str, np.ndarray[Any, Any]]]  # table, column -> values as stored


@dataclass(frozen=True)
class Commit:
    """One record of ``/committed``; ``number`` counts commits from 1."""

    number: int
    num_rows: Mapping[str, int]
    crc32: int

    @classmethod
    def of_record(cls, record: np.ndarray[Any, Any]) -> Commit:
        """The commit of a stored record, int64 [len(COLUMNS)]."""
        *counts, crc32, number = record.tolist()
        return cls(number, dict(zip(TABLES, counts, strict=True)), crc32)

    @property
    def record(self) -> list[int]:
        """The numbers that are stored, in the order of :data:`COLUMNS`."""
        return [*self.num_rows.values(), self.crc32, self.number]

    def followed_by(self, rows: Rows) -> Commit:
        """The next commit, which shows these rows too."""
        first = {name: table.columns[0].name for name, table in TABLES.items()}
        added = {name: len(rows[name][first[name]]) if name in rows else 0 for name in TABLES}
        counts = {name: count + added[name] for name, count in self.num_rows.items()}
        return Commit(self.number + 1, counts, checksum(rows, self.crc32))


NO_COMMIT = Commit(0, dict.fromkeys(TABLES, 0), 0)


def checksum(rows: Rows, seed: int) -> int:
    """CRC-32 of the rows' stored bytes, table by table and column by column in the schema's order.

    ``seed`` is the checksum of the commit before, so that one number covers the whole log up to here.
    """
    for table in TABLES.values():
        for column in table.columns if table.name in rows else ():
            seed = zlib.crc32(rows[table.name][column.name].tobytes(), seed)
    return seed
