#!/usr/bin/env python3
"""A Python that has imported the large libraries already: ``warm_python.py [-m MODULE | PROGRAM] ARGUMENTS…``.

Tests start hundreds of processes, and each would spend 8 to 13 s of CPU on importing torch, transformers, datasets and
scikit-learn. Instead one process, the server, imports them once and forks for each of the others. The package itself is
not imported beforehand, nor is mpi4py: what is forked imports them as a fresh process does, from its own environment.

What a test starts is a small process that hands its environment, folder, arguments and standard streams to the server,
passes signals on to the process that was forked, and ends as that one ends: with its exit status or by its signal. If
it is killed, the server kills the forked process.
"""

import os
import signal
import socket
import sys

ADDRESS = "RAFFM_MPI_TEST_SERVER"  # the environment variable with the server's socket
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)


def receive(source: socket.socket, num_bytes: int) -> bytes:
    """Receive so many bytes; nothing where the other end is gone."""
    data = b""
    while len(data) < num_bytes:
        if not (more := source.recv(num_bytes - len(data))):
            return b""
        data += more
    return data


def hand_over() -> None:
    """Have the server fork a process for this one, and end as it ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    request = {"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0)}
    data = repr(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[ADDRESS])
        socket.send_fds(server, [len(data).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(data)
        pid = int.from_bytes(receive(server, 8), "big")
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: os.kill(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        status = receive(server, 8)
    code = int.from_bytes(status, "big", signed=True) if status else 1
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    hand_over()
