"""A method from a user's own file, named in the config as ``path/to/file.py:ClassName``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from raffm_mpi.errors import UserMistake
from raffm_mpi.methods.base import Method


def load_method(name: str) -> type[Method]:
    """The class; raises UserMistake, naming file and class, for what is not there or no :class:`Method`."""
    file, _, wanted = name.rpartition(":")
    place = f"method.name: '{name}'"
    path = Path(file)
    if not path.is_file():
        raise UserMistake(f"{place}: there is no file '{file}' (from '{Path.cwd()}')")
    spec = importlib.util.spec_from_file_location(f"raffm_mpi_custom_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserMistake(f"{place}: the file cannot be run: {type(error).__name__}: {error}") from error
    found = getattr(module, wanted, None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserMistake(f"{place}: the file has no class '{wanted}' of raffm_mpi.methods.Method")
    return found
