"""Who is there, what each rank is doing, and whether the run shall stop: small messages beside the collectives.

Every rank sends the server a sign of life once a second from wherever it is (a training step, a batch of an
evaluation, a wait), and the server sends one to each. So a rank that falls silent is named with what it was doing, and
a signal that reaches one rank stops all.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Protocol

import numpy as np

from raffm_mpi.exchange.interruptions import Dismissed, RankSilent, catch_stop_signals, ignore_stop_signals

PULSE_S = 1.0  # between two signs of life
END_OF_ALLOCATION = -1  # the stop code that is no signal
_LEAVE_S = 10.0  # that the server waits for the groups to leave


class Phase(IntEnum):
    """What a rank can be doing; the value's text continues 'it was last …'."""

    SETTING_UP = 0
    WAITING = 1
    TRAINING = 2
    EVALUATING = 3
    COMMITTING = 4
    SAVING = 5
    RECOVERING = 6
    STOPPING = 7
    LEFT = 8


_TEXTS = {
    Phase.SETTING_UP: "setting up the run",
    Phase.WAITING: "waiting for the others in round {round}",
    Phase.TRAINING: "training client {client} in round {round} (step {step})",
    Phase.EVALUATING: "evaluating the model of round {round} (batch {step})",
    Phase.COMMITTING: "committing round {round}",
    Phase.SAVING: "saving the checkpoint of round {round}",
    Phase.RECOVERING: "going on after a failure in round {round}",
    Phase.STOPPING: "stopping",
    Phase.LEFT: "leaving",
}


@dataclass(frozen=True)
class Status:
    """What one rank says of itself; it travels as int64 words."""

    phase: Phase = Phase.SETTING_UP
    round: int = 0
    client: int = -1
    step: int = 0
    stop_code: int = 0  # a signal's number, or END_OF_ALLOCATION; 0: go on
    stop_rank: int = 0  # whom it reached
    recoveries: int = 0  # that it has begun

    def __str__(self) -> str:
        return _TEXTS[self.phase].format(round=self.round, client=self.client, step=self.step)

    def words(self) -> np.ndarray:
        """As int64 words."""
        return np.array(list(vars(self).values()), np.int64)

    @classmethod
    def of(cls, words: np.ndarray) -> Status:
        """From its words."""
        phase, *others = (int(word) for word in words)
        return cls(Phase(phase), *others)


class Mailbox(Protocol):
    """Small messages between two ranks, which never wait and never fail."""

    def post(self, rank: int, words: np.ndarray) -> None:
        """Send words to a rank; nothing happens if it is dead."""

    def pick_up(self) -> tuple[int, np.ndarray] | None:
        """The next message that came, with its sender."""

    def failed(self) -> set[int]:
        """The ranks that are known to be dead."""


@dataclass
class Presence:
    """This rank's view of the others: the server (rank 0) hears all, a group hears the server."""

    rank: int
    hosts: Sequence[str]  # of each rank
    mailbox: Mailbox
    timeout_s: float = float("inf")
    end_time: float = float("inf")  # seconds since 1970: when the run shall stop by itself
    own: Status = Status()
    told: dict[int, Status] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)  # whom the run goes on without

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A run begins: what was said in the one before counts no more."""
        now = time.monotonic()
        others = range(1, len(self.hosts)) if self.rank == 0 else (0,)
        self.own, self.told = Status(), {rank: Status() for rank in others}
        self._heard = dict.fromkeys(others, now)
        self._sent = self._looked = now

    @property
    def peers(self) -> list[int]:
        """The ranks that this one hears, the dead left out."""
        dead = self.mailbox.failed() | self.gone
        return [rank for rank in self.told if rank not in dead]

    @property
    def stopping(self) -> str | None:
        """Why the run shall stop at the next client or round; None while it shall not."""
        code, rank = self.own.stop_code, self.own.stop_rank
        if code == END_OF_ALLOCATION:
            return "the end of the job's allocation is near"
        return f"{signal.Signals(code).name} reached rank {rank} on {self.hosts[rank]}" if code else None

    def catch_signals(self) -> None:
        """From now on signals ask the run to stop; a second SIGINT interrupts at once, as the first did before."""

        def ask(number: int) -> None:
            if number == signal.SIGINT and self.own.stop_code:
                raise KeyboardInterrupt
            self.ask_to_stop(number)

        catch_stop_signals(ask)

    def ignore_signals(self) -> None:
        """This rank ends with a status of its own, which no signal may replace: srun sends one when the first ends."""
        ignore_stop_signals()

    def ask_to_stop(self, code: int) -> None:
        """Let every rank stop at its next client or round; the first reason counts."""
        if not self.own.stop_code:
            self.own = replace(self.own, stop_code=code, stop_rank=self.rank)
            self._sent = 0.0

    def doing(self, phase: Phase, round_number: int | None = None, client: int = -1) -> None:
        """Say what this rank is doing from now on; ``round_number`` stays as it was if left out."""
        number = self.own.round if round_number is None else round_number
        self.own = replace(self.own, phase=phase, round=number, client=client, step=0)
        self._sent = 0.0  # the next sign of life says so

    def step(self) -> None:
        """One step or batch is done."""
        self.own = replace(self.own, step=self.own.step + 1)
        self.pulse()

    def pulse(self, now: bool = False) -> None:
        """Give a sign of life where one is due, and hear those of the others."""
        if time.time() > self.end_time:
            self.ask_to_stop(END_OF_ALLOCATION)
        clock = time.monotonic()
        if now or clock - self._sent >= PULSE_S:
            self._sent = clock
            for rank in self.peers:
                self.mailbox.post(rank, self.own.words())
        self._hear()

    def look(self) -> None:
        """What a rank does that waits: pulse, and raise if it is dismissed or if a rank that it hears is silent."""
        self.pulse()
        if self.rank > 0 and self.told[0].phase == Phase.LEFT:
            self.doing(Phase.LEFT)
            self.pulse(now=True)
            raise Dismissed
        clock = time.monotonic()
        if clock - self._looked > self.timeout_s / 2:  # this rank itself was stopped, or busy: it cannot complain
            self._heard = dict.fromkeys(self._heard, clock)
        self._looked = clock
        for rank in self.peers:
            silent_s = clock - self._heard[rank]
            if silent_s > self.timeout_s:
                raise RankSilent(
                    f"rank {rank} on {self.hosts[rank]} has not answered for {silent_s:.0f} s; "
                    f"it was last heard {self.told[rank]}"
                )

    def roll_call(self, wait: Callable[[Callable[[], bool]], float]) -> None:
        """Wait until every living rank has come to go on after a failure; ``wait`` polls a condition."""
        self.doing(Phase.RECOVERING)
        self.own = replace(self.own, recoveries=self.own.recoveries + 1)

        def all_here() -> bool:
            return all(self.told[rank].recoveries >= self.own.recoveries for rank in self.peers)

        if self.rank > 0:  # say it at once, then wait for the server's word
            self.pulse(now=True)
        wait(all_here)
        if self.rank == 0:
            self.pulse(now=True)

    def dismiss(self) -> None:
        """The server's last word: every group may leave; returns when they have."""
        self.doing(Phase.LEFT)
        self.pulse(now=True)
        deadline = time.monotonic() + _LEAVE_S
        while any(self.told[rank].phase != Phase.LEFT for rank in self.peers) and time.monotonic() < deadline:
            self._hear()
            time.sleep(0.001)

    def _hear(self) -> None:
        while message := self.mailbox.pick_up():
            rank, status = message[0], Status.of(message[1])
            self.told[rank] = status
            self._heard[rank] = time.monotonic()
            if status.stop_code and not self.own.stop_code:
                self.own = replace(self.own, stop_code=status.stop_code, stop_rank=status.stop_rank)
                if self.rank == 0:  # pass it on
                    self.pulse(now=True)
