"""Figures and tables from the logs of runs, and from nothing else; installed as ``raffm_mpi.analysis``."""
