"""``raffm-mpi`` in which every group waits in the middle of round 2, until the test has acted; see support/held.py."""

from raffm_mpi.cli import main
from support.held import hold

hold()
main()
