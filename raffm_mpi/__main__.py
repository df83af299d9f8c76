"""``python -m raffm_mpi``: the command line."""

from raffm_mpi.cli import main

main()
