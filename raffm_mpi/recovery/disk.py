"""Patience with a full or absent disk: a step that cannot write is taken again, and what it writes waits in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from raffm_mpi.errors import sentence
from raffm_mpi.exchange.interruptions import DiskFailed
from raffm_mpi.exchange.presence import Presence
from raffm_mpi.messages import say

T = TypeVar("T")

_RETRY_S = 5.0
_PULSE_S = 0.1


@dataclass(frozen=True)
class Disk:
    """The disk of the output folder, which may be full or absent for ``patience_s`` seconds."""

    presence: Presence
    patience_s: float

    def write(self, step: Callable[[], T]) -> T:
        """Take a step that writes; while it raises OSError, take it again every few seconds.

        Raises DiskFailed after ``patience_s`` seconds, or as soon as the run shall stop.
        """
        start, told = time.monotonic(), False
        while True:
            try:
                result = step()
            except OSError as error:
                waited_s = time.monotonic() - start
                if waited_s >= self.patience_s or self.presence.stopping:
                    raise DiskFailed(f"{sentence(error)} (tried for {waited_s:.0f} s)") from error
                if not told:
                    say(f"{sentence(error)}; trying again for {self.patience_s:.0f} s")
                    told = True
            else:
                if told:
                    say(f"written after {time.monotonic() - start:.0f} s")
                return result
            self._wait(min(_RETRY_S, max(self.patience_s / 10, _PULSE_S)))

    def _wait(self, seconds: float) -> None:
        """Sleep, and give signs of life meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.presence.stopping:
            self.presence.pulse()
            time.sleep(_PULSE_S)
