"""``raffm-mpi`` in which a function fails on some rank: ``faulty.py MODULE:NAME ERROR RANK ARGUMENT…``."""

import builtins
import os
import sys
from importlib import import_module

from raffm_mpi.cli import main
from raffm_mpi.errors import UserMistake

place, error, rank = sys.argv[1:4]
owner, _, name = place.partition(":")
*classes, name = name.split(".")
owner = import_module(owner)
for attribute in classes:
    owner = getattr(owner, attribute)
kind = UserMistake if error == "UserMistake" else getattr(builtins, error)


def fail(*_, **__):
    raise kind("it went wrong")


if os.environ.get("OMPI_COMM_WORLD_RANK", "0") == rank:
    setattr(owner, name, fail)
sys.argv[1:] = sys.argv[4:]
main()
