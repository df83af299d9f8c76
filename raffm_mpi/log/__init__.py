"""The log of a run, ``run.h5``: its schema, the writer for rank 0, and the reader for everything else (docs/log.md)."""

from raffm_mpi.log.check import check_log
from raffm_mpi.log.file import LogNotWritten
from raffm_mpi.log.flat import flat
from raffm_mpi.log.reader import Run, open_run, records
from raffm_mpi.log.schema import GLOBAL_MODEL, LOWER_IS_BETTER, NO_DEVICE
from raffm_mpi.log.writer import RunLog

__all__ = [
    "GLOBAL_MODEL",
    "LOWER_IS_BETTER",
    "NO_DEVICE",
    "LogNotWritten",
    "Run",
    "RunLog",
    "check_log",
    "flat",
    "open_run",
    "records",
]
