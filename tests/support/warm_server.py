"""The server of warm_python.py: it has imported the libraries, and forks a process for each caller."""

from __future__ import annotations

import ast
import atexit
import contextlib
import functools
import importlib
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from support.waiting import wait_until
from support.warm_python import ADDRESS, PASSED_ON, receive

SUPPORT = Path(__file__).resolve().parent

PRELOADED = (
    "datasets",
    "sklearn.datasets",
    "sklearn.metrics",
    "scipy.stats",
    "pandas",
    "pyarrow.parquet",
    "peft",
    "torch.distributed.tensor",
    "torch._dynamo",
    "transformers.modeling_utils",
    "transformers.models.bert.modeling_bert",
    "transformers.models.vit.modeling_vit",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.auto.image_processing_auto",
    "typer",
    "rich.progress",
    "pydantic",
)


@functools.cache
def warm_python() -> tuple[str, ...]:
    """The words that start such a Python; the first call starts the server, which ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="raffm-mpi-warm-")
    path = f"{folder.name}/socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "support.warm_server", path],
        env={**os.environ, "PYTHONPATH": str(SUPPORT.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: os.path.exists(path), "the server of warm processes listens")

    def end() -> None:
        server.stdin.close()  # upon which it ends, and with it what it forked
        server.wait()
        folder.cleanup()

    atexit.register(end)
    return "env", f"{ADDRESS}={path}", sys.executable, "-I", "-S", str(SUPPORT / "warm_python.py")


def serve(path: str) -> None:
    """Import the libraries, then fork a process for each connection, until standard input ends.

    Returns in each forked process as well, which then is what was asked for.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # not every environment has all
            importlib.import_module(name)
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    for source in (listener, woken, sys.stdin):
        selector.register(source, selectors.EVENT_READ)
    callers: dict[int, socket.socket] = {}  # by the process that was forked for them
    while True:
        for source in [key.fileobj for key, _ in selector.select()]:
            if source is sys.stdin:
                for pid in callers:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            elif source is woken:
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
                for pid, code in ended(callers):
                    caller = callers.pop(pid)
                    with contextlib.suppress(OSError):  # it is gone
                        caller.sendall(code.to_bytes(8, "big", signed=True))
                    with contextlib.suppress(KeyError):
                        selector.unregister(caller)
                    caller.close()
            elif source is listener:
                caller, _ = listener.accept()
                head, streams, _, _ = socket.recv_fds(caller, 8, 3)
                request = receive(caller, int.from_bytes(head, "big"))
                if not (pid := os.fork()):
                    for other in (selector, listener, woken, wakes, caller, *callers.values()):
                        other.close()
                    become(ast.literal_eval(request.decode()), streams)
                    return
                for stream in streams:
                    os.close(stream)
                callers[pid] = caller
                selector.register(caller, selectors.EVENT_READ)
                caller.sendall(pid.to_bytes(8, "big"))
            elif source in callers.values():  # a caller was killed
                selector.unregister(source)
                os.kill(next(pid for pid, caller in callers.items() if caller is source), signal.SIGKILL)


def ended(callers: dict[int, socket.socket]) -> list[tuple[int, int]]:
    """The forked processes that ended, each with its exit status or, negative, its signal."""
    found = []
    while callers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            break
        found.append((pid, os.waitstatus_to_exitcode(status)))
        if len(found) == len(callers):
            break
    return found


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Take over what a forked process has from who asked for it, then run the program; its end is the process's."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, *PASSED_ON):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if request["argv"][0] == "-m":
        sys.argv = request["argv"][1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = request["argv"]
        sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    del sys.path[0]  # the folder that the server was started in
    sys.path.remove(str(SUPPORT.parent))
    serve(sys.argv[1])
