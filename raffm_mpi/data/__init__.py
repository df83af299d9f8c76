"""Data sets: :func:`load` finds, :func:`prepare` caches, :func:`open_data` reads, :func:`partition` deals.

What depends on the task is said by a :class:`Format`, which the tasks in :mod:`raffm_mpi.tasks` are.
"""

from raffm_mpi.data.cache import prepare, prepared
from raffm_mpi.data.columns import Columns
from raffm_mpi.data.formats import Format, Reader, Writer
from raffm_mpi.data.inputs import ImageInput, TextInput
from raffm_mpi.data.partitions import Partition, check_enough, partition
from raffm_mpi.data.shares import share
from raffm_mpi.data.source import DataInfo, SplitInfo, find_splits, load, training_split
from raffm_mpi.data.splits import FederatedData, Split, open_data
from raffm_mpi.data.texts import IGNORED
from raffm_mpi.data.unreadable import UnreadableExample

__all__ = [
    "IGNORED",
    "Columns",
    "DataInfo",
    "FederatedData",
    "Format",
    "ImageInput",
    "Partition",
    "Reader",
    "Split",
    "SplitInfo",
    "TextInput",
    "UnreadableExample",
    "Writer",
    "check_enough",
    "find_splits",
    "load",
    "open_data",
    "partition",
    "prepare",
    "prepared",
    "share",
    "training_split",
]
