"""``raffm-mpi`` in which every group waits in the middle of round 2, until the test has acted; see support/held.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from raffm_mpi.cli import main
from support.held import hold

hold()
main()
