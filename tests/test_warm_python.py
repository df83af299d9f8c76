"""What the tests start in a warm Python is like what they would start in a fresh one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from support.waiting import TIMEOUT_S, wait_until
from support.warm_server import warm_python

SHOWN = """
import os, signal, sys
print(sys.argv[1:], os.getcwd(), os.environ.get("GIVEN"), sys.stdin.read(), __name__, sys.path[0])
print("raffm_mpi" in sys.modules, "mpi4py" in sys.modules, "h5py" in sys.modules, len(os.listdir("/proc/self/task")))
print("said", file=sys.stderr)
"""


@pytest.fixture
def program(tmp_path):
    """``program(text)``: the path of a program."""

    def write(text):
        (tmp_path / "program.py").write_text(text)
        return str(tmp_path / "program.py")

    return write


def both(program, *arguments, **options):
    """What comes of a program in a warm Python and in a fresh one: its status, output and errors."""
    results = []
    for python in (warm_python(), (sys.executable,)):
        words = [*python, program, *arguments]
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, **options)
        results.append((done.returncode, done.stdout, done.stderr))
    return results


def test_arguments_folder_environment_streams_and_modules_are_those_of_a_fresh_process(program, tmp_path):
    options = {"cwd": tmp_path, "env": {**os.environ, "GIVEN": "this"}, "input": "typed"}
    warm, fresh = both(program(SHOWN), "a", "b", **options)
    assert warm == fresh
    assert warm[0] == 0 and "['a', 'b']" in warm[1] and "typed" in warm[1] and warm[2] == "said\n"


@pytest.mark.parametrize(
    ("end", "status"),
    [("raise SystemExit(75)", 75), ("raise SystemExit('no')", 1), ("os._exit(3)", 3), ("os.abort()", -signal.SIGABRT)],
)
def test_it_ends_as_the_program_does(program, end, status):
    warm, fresh = both(program(f"import os; {end}"))
    assert warm == fresh
    assert warm[0] == status


def test_what_is_registered_for_the_end_happens_and_an_error_has_its_traceback(program):
    warm, fresh = both(program("import atexit; atexit.register(print, 'the end'); raise RuntimeError('broken')"))
    assert warm[:2] == fresh[:2] == (1, "the end\n")
    assert warm[2].startswith("Traceback") and warm[2].endswith("RuntimeError: broken\n")


WAITING = "import os, time; print(os.getpid(), flush=True); time.sleep(10**6)"


def started(path):
    process = subprocess.Popen([*warm_python(), path], stdout=subprocess.PIPE, text=True)
    return process, psutil.Process(int(process.stdout.readline()))


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_to_it_ends_the_program_too(program, number):
    process, forked = started(program(WAITING))
    process.send_signal(number)
    assert process.wait(timeout=TIMEOUT_S) == -number
    wait_until(lambda: is_gone(forked), "the forked process ends")


def test_it_ends_by_the_signal_that_killed_the_program(program):
    process, forked = started(program(WAITING))
    forked.kill()
    assert process.wait(timeout=TIMEOUT_S) == -signal.SIGKILL
