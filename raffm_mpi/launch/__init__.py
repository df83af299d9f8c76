"""Jobs: a run started by mpirun or srun and watched until it is finished, and submitted to Slurm through submitit.

``supervise.py`` runs inside an allocation or on one machine, ``launchers.py`` writes the command that it starts,
``jobs.py`` submits, ``sweep.py`` makes many runs of one command line.
"""

from raffm_mpi.launch.jobs import RunResult, launch

__all__ = ["RunResult", "launch"]
