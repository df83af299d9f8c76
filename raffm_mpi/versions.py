"""Versions of Python and of the libraries that show in a run's bits or in its log."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("torch", "transformers", "datasets", "numpy", "h5py", "mpi4py", "safetensors")
MISSING = "missing"  # in the place of the version of a library that is not installed


def versions() -> dict[str, str]:
    """The version of Python and of each library, by name, as installed here; nothing is imported."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING
