"""How mpirun reaches another node of a Slurm job: ``python -m raffm_mpi.launch.agent HOST WORDS…`` runs them there.

mpirun calls it as it would call ssh. Slurm and submitit send signals to all steps of a job, which would kill mpirun's
daemon on the other node. Here these signals are ignored; the ranks get them from the supervisor, through mpirun.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Replace this process by srun."""
    host, *words = sys.argv[1:]
    step = ["--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}", "--mpi=none", "--input=none"]
    job = os.environ["SLURM_JOB_ID"]
    os.execvp("srun", ["srun", f"--jobid={job}", *step, "bash", "-c", f"trap '' USR1 USR2; {' '.join(words)}"])


if __name__ == "__main__":
    main()
