"""Run by test_commands.py: the command line in this process, and then what it imported and how large it grew."""

import resource
import sys

from raffm_mpi.cli import app

app(sys.argv[1:], standalone_mode=False)
print(f"mpi4py imported: {any(name.split('.')[0] == 'mpi4py' for name in sys.modules)}")
print(f"peak MiB: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")
