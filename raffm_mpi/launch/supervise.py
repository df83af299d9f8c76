"""Start a run and watch it until it is finished: start it again when it dies, stop it in time when it must end.

Whether a run has finished is read from its log: mpirun's exit status is 0 even where ranks died.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.interruptions import FAILED, RESUMABLE, catch_stop_signals
from raffm_mpi.launch.launchers import Command, clean_up
from raffm_mpi.log import open_run
from raffm_mpi.log.schema import log_file
from raffm_mpi.messages import MET, said, say

DONE = 0  # the exit status of a finished run
_FRUITLESS = 3  # after so many starts in a row that committed no round, another allocation must help
_TAIL_LINES = 40
_POLL_S = 0.05
_TO_END_S = 10.0  # the time that a launcher has to end its ranks


class Supervisor:
    """Starts a run, and starts it again when it dies; ``make_command`` gives the command of each start.

    A start whose ranks have not met after ``start_timeout_s`` seconds is ended: MPI sometimes loses a message or a
    daemon.
    """

    def __init__(self, make_command: Callable[[], Command], output: str | Path, start_timeout_s: float) -> None:
        self._make_command = make_command
        self._output = Path(output)
        self._start_timeout_s = start_timeout_s
        self._has_met = self._was_ended = False
        self._meet_by = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._is_running = False
        self._is_stopping = False
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    @property
    def complaints(self) -> list[str]:
        """The last lines of the run's standard error, each once: only its own sentences where there are any."""
        own = [sentence for line in self._tail if (sentence := said(line)) is not None]
        return list(dict.fromkeys(own or self._tail))

    def run(self) -> int:
        """Run to the end.

        Returns an exit status: DONE, FAILED, UserMistake's, or RESUMABLE where another job should go on.
        """
        fruitless = 0
        while True:
            _, before = _progress(self._output)
            status = self._start()
            reached, num_rounds = _progress(self._output)
            if reached == "finished":
                return DONE
            if self._is_stopping or (status == RESUMABLE and reached == "interrupted"):
                return RESUMABLE
            if status in (FAILED, UserMistake.exit_status) or reached == "failed":
                return status or FAILED
            fruitless = 0 if num_rounds > before else fruitless + 1
            if fruitless == _FRUITLESS:
                say(f"{fruitless} starts in a row died without a round; another job may find better nodes")
                return RESUMABLE
            say(f"the run died (exit status {status}) after {num_rounds} rounds; it is started again")

    def stop(self) -> None:
        """Ask the run to stop at its next client, and wait until it has."""
        self.ask_to_stop()
        self._wait()

    def ask_to_stop(self) -> None:
        """Ask the run to stop at its next client, by SIGUSR1, which both launchers pass on to the ranks."""
        self._is_stopping = True
        if self._is_running and self._process is not None:
            self._process.send_signal(signal.SIGUSR1)

    def catch_signals(self) -> None:
        """From now on a signal to this process stops the run, whose own session gets no signal from the terminal."""
        catch_stop_signals(lambda _number: self.ask_to_stop())

    def _start(self) -> int:
        """One start of the run, to its end; returns its exit status."""
        command = self._make_command()
        say(f"starts {command}")
        self._process = subprocess.Popen(
            command.words, env=dict(command.environment), stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._is_running, self._has_met, self._was_ended = True, False, False
        self._meet_by = time.monotonic() + self._start_timeout_s
        # A thread waits for the process, so that the main thread holds no lock that a signal handler needs.
        threading.Thread(target=self._follow, args=(self._process,), daemon=True).start()
        if self._is_stopping:
            self.ask_to_stop()
        self._wait()
        clean_up(command)
        status = -signal.SIGTERM if self._was_ended else self._process.returncode
        return status if status >= 0 else 128 - status

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Pass on what the run says, keep the end of it, and note when it ends."""
        assert process.stderr is not None
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            self._has_met |= line.rstrip().endswith(MET)
            self._tail.append(line.rstrip())
        process.wait()
        self._is_running = False

    def _wait(self) -> None:
        """Wait until the start has ended; end it where its ranks do not meet in time."""
        while self._is_running:
            if not (self._has_met or self._was_ended) and time.monotonic() > self._meet_by:
                say(f"the ranks did not meet within {self._start_timeout_s:g} s (reliability.start_timeout_s)")
                self._was_ended = True
                self._end()
            time.sleep(_POLL_S)

    def _end(self) -> None:
        """End the launcher, and with it the ranks."""
        assert self._process is not None
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_TO_END_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def requeue(max_requeues: int) -> bool:
    """Put this Slurm job back into the queue, at most ``max_requeues`` times; returns whether Slurm took it."""
    job, count = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if job is None or count >= max_requeues:
        return False
    say(f"job {job} is requeued and will resume (time {count + 1} of at most {max_requeues})")
    return subprocess.run(["scontrol", "requeue", job]).returncode == 0


def _progress(output: Path) -> tuple[str, int]:
    """The status and the number of committed rounds that the log gives; an empty status without a log."""
    if not log_file(output).exists():
        return "", 0
    with open_run(output) as run:
        return run.status, int(run.num_rows["rounds"])
