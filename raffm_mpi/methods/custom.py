"""A method from a user's own file, named in the config as ``path/to/file.py:ClassName``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raffm_mpi.errors import UserMistake
from raffm_mpi.methods.base import Method

_ARGUMENTS = ("layout", "seed", "price", "settings", "fits")  # of a method's constructor, by position


def load_method(name: str) -> type[Method]:
    """The class that ``name``, FILE.py:CLASS, names.

    Raises UserMistake, naming file and class, for what is not there, for what is no :class:`Method`, for a class that
    lacks a method which it must have, and for a constructor that does not take what every method's takes.
    """
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
    except (Exception, SystemExit) as error:
        raise UserMistake(f"{place}: the file cannot be run: {type(error).__name__}: {error}") from error
    found = getattr(module, wanted, None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserMistake(f"{place}: the file has no class '{wanted}' of raffm_mpi.methods.Method")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise UserMistake(f"{place}: the class '{wanted}' lacks {lacking}, which every method must have")
    try:
        inspect.signature(found).bind(*_ARGUMENTS)
    except TypeError as error:
        raise UserMistake(
            f"{place}: the constructor of class '{wanted}' must take ({', '.join(_ARGUMENTS)}), as that of "
            f"raffm_mpi.methods.Method: {error}"
        ) from None
    return found


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name a user's file in a fault of its code; SystemExit is one, too: the other ranks would wait for ever."""
    try:
        yield
    except UserMistake:
        raise
    except (Exception, SystemExit) as error:
        raise RuntimeError(f"method '{name}': {type(error).__name__}: {error}") from error
