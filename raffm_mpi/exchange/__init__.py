"""The ranks of a run, joined by MPI or alone, and what travels between them; mpi4py is imported here alone."""
