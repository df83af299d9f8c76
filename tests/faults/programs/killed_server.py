"""``raffm-mpi`` whose rank 0 dies by SIGKILL, KILL_AFTER_S seconds after it began to serve, whatever it is doing."""

import os
import signal
import threading

from raffm_mpi.cli import main
from raffm_mpi.federation import serve as module


def serve(*arguments, original=module.serve):
    threading.Timer(float(os.environ["KILL_AFTER_S"]), os.kill, (os.getpid(), signal.SIGKILL)).start()
    original(*arguments)


module.serve = serve
main()
