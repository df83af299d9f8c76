"""``python -m raffm_mpi.log`` prints the schema as docs/log.md shows it."""

from raffm_mpi.log.schema import describe

print(describe(), end="")
