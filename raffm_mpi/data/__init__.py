"""Data sets: :func:`inspect` finds, :func:`prepare` caches, :func:`open_data` reads, :func:`partition` deals."""

from raffm_mpi.data.cache import prepare
from raffm_mpi.data.inputs import ImageInput, TextInput
from raffm_mpi.data.partitions import Partition, check_enough, partition
from raffm_mpi.data.source import Columns, DataInfo, SplitInfo, inspect
from raffm_mpi.data.splits import FederatedData, Split, open_data

__all__ = [
    "Columns",
    "DataInfo",
    "FederatedData",
    "ImageInput",
    "Partition",
    "Split",
    "SplitInfo",
    "TextInput",
    "check_enough",
    "inspect",
    "open_data",
    "partition",
    "prepare",
]
