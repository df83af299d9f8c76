"""The Python API of the official RaFFM project, on labelled models; docs/coming-from-raffm.md maps one to the other."""

from raffm_mpi.api.raffm import RaFFM, RaPEFT
from raffm_mpi.api.submodels import load_submodel

__all__ = ["RaFFM", "RaPEFT", "load_submodel"]
