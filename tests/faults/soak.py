"""A soak run: real signals at random moments to the ranks of real runs, which must all end as the undisturbed one.

PYTHONPATH=tests python tests/faults/soak.py [NUM_KILLS] [SEED]     # make soak KILLS=…; about 12 s a kill on two cores

A run is started, disturbed from outside and started again with --resume on another number of ranks until it is
finished; then the next. One line a start, a summary, exit status 1 on any failure. The seed fixes what is done when;
which step of a rank that hits depends on the machine.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.interruptions import RESUMABLE
from raffm_mpi.log import Run, check_log, open_run
from support.small_federation import differences, run_alone, write_config

NUM_ROUNDS = 20
NUM_RANKS = (2, 5)  # fewest and most
SET_UP_SHARE = 0.25  # of the starts are disturbed from their first second on, the others from their first round on
SET_UP_S = 12.0
GAP_S = (0.0, 4.0)  # between two signals
STOPPING_GAP_S = (0.0, 0.5)  # after one that asks to stop
HANG_S = 90.0  # without a commit
LEAVE_S = 15.0  # for ranks to end after mpirun
MOST_FAILURES = 10
NUM_LINES = 40  # of stderr, that are shown of a failure
SERVING = "if a client group dies, the others take over"  # what rank 0 says when every rank is set up
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PYTHONFAULTHANDLER": "1"}

# signal, fewest groups, how often, and how many of the ranks that it goes to
KINDS: dict[str, tuple[signal.Signals, int, int]] = {
    "a group killed": (signal.SIGKILL, 1, 5),
    "two groups killed": (signal.SIGKILL, 2, 2),
    "all groups killed": (signal.SIGKILL, 1, 1),
    "the server killed": (signal.SIGKILL, 0, 2),
    "SIGUSR1 to a rank": (signal.SIGUSR1, 0, 1),
    "SIGTERM to a rank": (signal.SIGTERM, 0, 1),
}


@dataclass(frozen=True)
class Kill:
    """What was sent: a kind, to which ranks, when."""

    kind: str
    ranks: tuple[int, ...]
    phase: str  # set-up, rounds, or end: all rounds are committed
    round: int  # that was under way

    def __str__(self) -> str:
        where = f"round {self.round}" if self.phase == "rounds" else self.phase
        return f"{self.kind} ({', '.join(map(str, self.ranks))}; {where})"


class Hang(Exception):
    """A start neither ends nor commits anything."""


class Start:
    """One ``mpirun raffm-mpi run --resume``, seen from outside."""

    def __init__(self, config: Path, output: Path, num_ranks: int) -> None:
        self.output, self.num_ranks = output, num_ranks
        self.kills: list[Kill] = []
        self.began = time.monotonic()
        self.stderr = output.parent / "stderr"
        command = [sys.executable, "-m", "raffm_mpi", "run", config, f"output={output}", "--resume"]
        command += [f"federation.num_rounds={NUM_ROUNDS}", f"data.cache={output.parent / 'cache'}"]
        mpirun = Path(sys.executable).with_name("mpirun")
        with self.stderr.open("w") as stderr:
            self.mpirun = subprocess.Popen(
                [mpirun if mpirun.exists() else "mpirun", "--with-ft", "ulfm", "-n", str(num_ranks), *command],
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        self._progress: tuple[int, int] = (0, 0)
        self._changed = self.began
        self.ranks: dict[int, psutil.Process] = {}
        self.wait(60, lambda: self._find_ranks() == num_ranks)

    @property
    def is_over(self) -> bool:
        """Whether mpirun has ended."""
        return self.mpirun.poll() is not None

    @property
    def is_serving(self) -> bool:
        """Whether every rank is set up."""
        return SERVING in self.stderr.read_text(errors="replace")

    def living(self) -> list[int]:
        """The ranks that are alive."""
        return [rank for rank, process in self.ranks.items() if _is_alive(process)]

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Wait so long, for a condition or for the end; raises Hang."""
        end = time.monotonic() + seconds
        while not self.is_over and not until() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
            if time.monotonic() - self._changed > HANG_S and not self._has_progress():
                raise Hang

    def kill(self, kind: str, rng: random.Random) -> None:
        """Send what the kind says to ranks that are alive."""
        number, fewest, _ = KINDS[kind]
        groups = [rank for rank in self.living() if rank > 0]
        if number != signal.SIGKILL:
            ranks = [rng.choice([0, *groups])]
        elif kind.startswith("all"):
            ranks = groups
        else:
            ranks = rng.sample(groups, fewest) if fewest else [0]
        rounds = _num_rounds(self.output)
        phase = "set-up" if not self.is_serving else "end" if rounds == NUM_ROUNDS else "rounds"
        self.kills.append(Kill(kind, tuple(ranks), phase, rounds))
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.ranks[rank].send_signal(number)

    def end(self) -> list[str]:
        """End what still runs; a sentence for each thing that went wrong."""
        wrong = []
        if not self.is_over:  # it hangs: have every rank say where
            wrong.append(f"hangs: no end and no commit for {HANG_S:.0f} s")
            for rank in self.living():
                self.ranks[rank].send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.mpirun.wait(LEAVE_S)
        psutil.wait_procs(self.ranks.values(), LEAVE_S if self.is_over else 0)
        if left := self.living():
            wrong.append(f"ranks {left} are left behind")
        for process in (*(self.ranks[rank] for rank in left), self.mpirun):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.mpirun.wait()
        return wrong + self._flaws()

    def how(self) -> str:
        """How it ended, in words."""
        return f"exit status {self.mpirun.returncode}, {_status(self.output)}"

    def _flaws(self) -> list[str]:
        wrong, text = [], self.stderr.read_text(errors="replace")
        wrong += [f"'{sign}' on stderr" for sign in ("Traceback", "Fatal Python error") if sign in text]
        status, finished = self.mpirun.returncode, _status(self.output) == "finished"
        if status not in (0, RESUMABLE):
            wrong.append(f"exit status {status}")
        survivable = all(kill.kind.endswith("groups killed") or kill.kind == "a group killed" for kill in self.kills)
        if not finished and survivable and not any(kill.phase == "set-up" for kill in self.kills):
            wrong.append("not finished, though only groups were killed, after the set-up")
        if not finished and status == 0 and not any(0 in kill.ranks for kill in self.kills):
            wrong.append("exit status 0, but it is not finished, and the server was left alone")
        return wrong

    def _find_ranks(self) -> int:
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.mpirun.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error, KeyError):
                    self.ranks.setdefault(int(process.environ()["OMPI_COMM_WORLD_RANK"]), process)
        return len(self.ranks)

    def _has_progress(self) -> bool:
        before, self._progress = self._progress, (_num_rounds(self.output), _num_commits(self.output))
        if self._progress != before:
            self._changed = time.monotonic()
        return self._progress != before


@dataclass
class Summary:
    """What the soak run has come to so far."""

    num_starts: int = 0
    num_resumes: int = 0
    num_finished: int = 0
    num_again: int = 0
    kills: list[Kill] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    recoveries_s: list[float] = field(default_factory=list)
    rounds_s: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})  # with losses or without
    interruptions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def read(self, run: Run) -> None:
        """Take in what a finished run went through."""
        events, seen = run.events, set()
        for seconds, num_recoveries in zip(run.rounds["round_s"], run.rounds["num_recoveries"], strict=True):
            self.rounds_s[num_recoveries > 0].append(seconds)
        for row in events[events["kind"] == "recovery"].itertuples():
            seconds = re.search(r"found (.*)\): (\d+) clients .* after ([\d.]+) s", row.message)
            self.num_again += int(seconds[2])
            if (row.round, seconds[1], seconds[3]) not in seen:  # several ranks that died at once are one recovery
                self.recoveries_s.append(float(seconds[3]))
            seen.add((row.round, seconds[1], seconds[3]))
        self.num_resumes += int((events["kind"] == "resumed").sum())
        for message in events[events["kind"] == "interrupted"]["message"]:
            self.interruptions[re.sub(r"\d+", "N", message.partition(": ")[2])] += 1

    def __str__(self) -> str:
        sent = Counter((kill.kind, kill.phase) for kill in self.kills)
        lines = [
            f"{self.num_starts} starts, {len(self.kills)} kills of {sum(len(k.ranks) for k in self.kills)} ranks, "
            f"{self.num_finished} runs finished, {self.num_resumes} resumed",
            *(
                f"  {kind}: " + ", ".join(f"{sent[kind, phase]} in {phase}" for phase in ("set-up", "rounds", "end"))
                for kind in KINDS
            ),
            f"recoveries: {_seconds(self.recoveries_s)}; {self.num_again} clients were trained again",
            f"rounds with one: {_seconds(self.rounds_s[True])}; without: {_seconds(self.rounds_s[False])}",
            *(f"  {what}: {count}" for what, count in sorted((self.statuses + self.interruptions).items())),
            f"{len(self.failures)} failures",
        ]
        return "\n".join([*lines, *self.failures])


def disturb(start: Start, rng: random.Random, most: int) -> None:
    """Send signals at random moments until the start must end, or ``most`` were sent."""
    if rng.random() < SET_UP_SHARE:
        start.wait(rng.uniform(0, SET_UP_S))
    else:
        start.wait(float("inf"), lambda: start.is_serving)
        start.wait(rng.uniform(*GAP_S))
    while len(start.kills) < most and not start.is_over and 0 in start.living():
        num_groups = len(start.living()) - 1
        kinds = {kind: often for kind, (_, fewest, often) in KINDS.items() if fewest <= num_groups}
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        start.kill(kind, rng)
        start.wait(rng.uniform(*(STOPPING_GAP_S if KINDS[kind][0] != signal.SIGKILL else GAP_S)))


def run_to_its_end(config: Path, output: Path, seed: int, num_kills: int, summary: Summary) -> None:
    """Start, disturb and start again until the run is finished, or a failure was found."""
    while _status(output) != "finished":
        summary.num_starts += 1
        rng = random.Random(f"{seed} {summary.num_starts}")
        start = Start(config, output, rng.randint(*NUM_RANKS))
        with contextlib.suppress(Hang):
            disturb(start, rng, num_kills - len(summary.kills))
            start.wait(float("inf"))
        wrong = start.end()
        summary.kills += start.kills
        summary.statuses[start.how()] += 1
        if _status(output) == "finished" and not wrong:
            wrong = differences(config.parent / "undisturbed", output) + check_log(output)
        sent = ", ".join(map(str, start.kills)) or "undisturbed"
        line = (
            f"start {summary.num_starts}: {start.num_ranks} ranks; {sent}; "
            f"{start.how()}, after {_num_rounds(output)} rounds and {time.monotonic() - start.began:.0f} s"
        )
        print(line, flush=True)
        if wrong:
            lines = start.stderr.read_text(errors="replace").splitlines()
            tail = [line for line in lines if not line.startswith("Extension modules:")][-NUM_LINES:]
            shutil.copy(start.stderr, output)
            told = "\n".join([f"FAILED (seed {seed}): {'; '.join(wrong)}", line, f"kept: {output}", *tail])
            print(told, flush=True)
            summary.failures.append(told)
            return
    with open_run(output) as run:
        summary.read(run)
    summary.num_finished += 1
    shutil.rmtree(output.parent)


def main(num_kills: int = 50, seed: int = 0) -> int:
    """Run federations, and disturb them ``num_kills`` times."""
    folder = Path(tempfile.mkdtemp(prefix="raffm-mpi-soak-"))
    config = write_config(folder)
    undisturbed = run_alone(config, f"federation.num_rounds={NUM_ROUNDS}")
    if undisturbed.returncode:
        print(f"the undisturbed run failed:\n{undisturbed.stderr}")
        return 1
    summary = Summary()
    print(f"{num_kills} kills, seed {seed}, in {folder}", flush=True)
    for number in range(num_kills):
        if len(summary.kills) >= num_kills or len(summary.failures) >= MOST_FAILURES:
            break
        output = folder / f"run_{number}" / "output"
        output.parent.mkdir()
        run_to_its_end(config, output, seed, num_kills, summary)
    print(f"\n{summary}")
    if not summary.failures:
        shutil.rmtree(folder)
    return 1 if summary.failures else 0


def _seconds(values: list[float]) -> str:
    return f"{len(values)}, median {statistics.median(values):.1f} s, longest {max(values):.1f} s" if values else "0"


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _status(output: Path) -> str:
    """What the log says of the run."""
    try:
        with open_run(output) as run:
            return run.status
    except UserMistake:
        return "not begun"


def _num_rounds(output: Path) -> int:
    """Rounds that are committed."""
    try:
        with open_run(output) as run:
            return run.num_rows["rounds"]
    except UserMistake:
        return 0


def _num_commits(output: Path) -> int:
    try:
        with open_run(output) as run:
            return len(run.commits)
    except UserMistake:
        return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
