"""RaFFM on MPI: resource-aware federated fine-tuning of transformers, bit-identical on any number of ranks."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported when first asked for (PEP 562), so that ``import raffm_mpi`` stays cheap; they live in raffm_mpi.api.
_LAZY = ("RaFFM", "RaPEFT", "load_submodel")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
