"""Data sets: :func:`inspect` finds, :func:`prepare` caches, :func:`open_data` reads, :func:`partition` deals."""

from raffm_mpi.data.cache import prepare, prepared
from raffm_mpi.data.columns import Columns
from raffm_mpi.data.images import ImageInput
from raffm_mpi.data.partitions import Partition, check_enough, partition
from raffm_mpi.data.questions import References
from raffm_mpi.data.shares import share
from raffm_mpi.data.source import DataInfo, SplitInfo, inspect
from raffm_mpi.data.splits import FederatedData, Split, open_data
from raffm_mpi.data.texts import IGNORED, TextInput
from raffm_mpi.data.unreadable import UnreadableExample

__all__ = [
    "IGNORED",
    "Columns",
    "DataInfo",
    "FederatedData",
    "ImageInput",
    "Partition",
    "References",
    "Split",
    "SplitInfo",
    "TextInput",
    "UnreadableExample",
    "check_enough",
    "inspect",
    "open_data",
    "partition",
    "prepare",
    "prepared",
    "share",
]
