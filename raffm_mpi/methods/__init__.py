"""The methods, by name; a new one is a class of :class:`~raffm_mpi.methods.base.Method` and a line here."""

from __future__ import annotations

from raffm_mpi.config import FedAvgSettings, MethodSettings, RaFFMSettings
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.methods.base import Method
from raffm_mpi.methods.fedavg import FedAvg
from raffm_mpi.methods.raffm import RaFFM

__all__ = ["Method", "make_method"]


def make_method(settings: MethodSettings, layout: ModelLayout, seed: int, num_tokens: float) -> Method:
    """The method that the settings describe, for one model; ValueError if the two contradict each other."""
    match settings:
        case FedAvgSettings():
            return FedAvg(layout, seed, num_tokens)
        case RaFFMSettings():
            return RaFFM(layout, seed, num_tokens, settings)
