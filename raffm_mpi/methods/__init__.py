"""The methods, by name; a new one is a class of :class:`~raffm_mpi.methods.base.Method` and a line here."""

from __future__ import annotations

from contextlib import nullcontext

from torch import nn

from raffm_mpi import config
from raffm_mpi.config import CustomSettings, MethodSettings
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.methods.base import Fits, Method, Price
from raffm_mpi.methods.custom import load_method, naming
from raffm_mpi.methods.depthfl import DepthFL
from raffm_mpi.methods.fedavg import FedAvg
from raffm_mpi.methods.fedrolex import FedRolex
from raffm_mpi.methods.fiarse import FIARSE
from raffm_mpi.methods.fjord import FjORD
from raffm_mpi.methods.heterofl import HeteroFL
from raffm_mpi.methods.prism import PriSM
from raffm_mpi.methods.prunefl import PruneFL
from raffm_mpi.methods.raffm import RaFFM

__all__ = ["METHODS", "Method", "check_method", "make_method", "prepare_model"]

METHODS: dict[type[MethodSettings], type[Method]] = {
    config.FedAvgSettings: FedAvg,
    config.RaFFMSettings: RaFFM,
    config.HeteroFLSettings: HeteroFL,
    config.FedRolexSettings: FedRolex,
    config.FjORDSettings: FjORD,
    config.DepthFLSettings: DepthFL,
    config.FIARSESettings: FIARSE,
    config.PruneFLSettings: PruneFL,
    config.PriSMSettings: PriSM,
}


def check_method(settings: MethodSettings, layout: ModelLayout) -> None:
    """Raise UserMistake for settings that the model contradicts: all that its structure alone can tell."""
    _class_of(settings).check(settings, layout)


def prepare_model(settings: MethodSettings, model: nn.Module) -> nn.Module:
    """The model that the method trains, made of a transformers model, in place; UserMistake if it cannot be."""
    return _class_of(settings).prepare(model)


def make_method(
    settings: MethodSettings, layout: ModelLayout, seed: int, price: Price, fits: Fits | None = None
) -> Method:
    """The method that the settings describe, for one model; UserMistake if the two contradict each other."""
    made = _class_of(settings)
    with naming(settings.name) if isinstance(settings, CustomSettings) else nullcontext():
        return made(layout, seed, price, settings, fits)


def _class_of(settings: MethodSettings) -> type[Method]:
    return load_method(settings.name) if isinstance(settings, CustomSettings) else METHODS[type(settings)]
