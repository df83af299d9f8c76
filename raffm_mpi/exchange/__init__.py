"""The ranks of a run and what travels between them; the only room that imports mpi4py."""
