"""Pictures and tables from the logs of runs; installed as ``raffm_mpi.analysis``, it reads logs and nothing else."""
