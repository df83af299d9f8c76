"""The methods, by name; a new one is a class of :class:`~raffm_mpi.methods.base.Method` and a line here."""

from __future__ import annotations

from collections.abc import Callable

from raffm_mpi.config import FedAvgSettings, MethodSettings, RaFFMSettings
from raffm_mpi.elastic.cost import Cost
from raffm_mpi.elastic.labels import Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.methods.base import Method
from raffm_mpi.methods.fedavg import FedAvg
from raffm_mpi.methods.raffm import RaFFM
from raffm_mpi.methods.space import resolve

__all__ = ["Method", "check_method", "make_method"]


def check_method(settings: MethodSettings, layout: ModelLayout) -> None:
    """Raise ValueError for an elastic space that the model contradicts: all that its structure alone can tell."""
    if isinstance(settings, RaFFMSettings):
        resolve(settings.space, layout)


def make_method(settings: MethodSettings, layout: ModelLayout, seed: int, price: Callable[[Selection], Cost]) -> Method:
    """The method that the settings describe, for one model; ValueError if the two contradict each other."""
    match settings:
        case FedAvgSettings():
            return FedAvg(layout, seed, price)
        case RaFFMSettings():
            return RaFFM(layout, seed, price, settings)
