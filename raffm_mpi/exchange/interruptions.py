"""How a run can be interrupted by something else than a mistake or a fault, and what becomes of it."""

from __future__ import annotations

import signal
from collections.abc import Callable

FAILED, RESUMABLE = 1, 75  # exit statuses
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)  # by which a run is asked to stop


def catch_stop_signals(handle: Callable[[int], None]) -> None:
    """From now on call ``handle`` with the number of a signal that asks to stop, in the main thread of this process."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda caught, _frame: handle(caught))


def ignore_stop_signals() -> None:
    """From now on no signal that asks to stop has an effect on this process."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Interruption(Exception):
    """The run ends early, its last committed round intact; a launcher starts it again on exit status 75."""

    exit_status = RESUMABLE


class Stopped(Interruption):
    """The run was asked to stop, and has saved its state."""


class ServerFailed(Interruption):
    """Rank 0 has died."""


class RankSilent(Interruption):
    """A rank has not given a sign of life for too long; the message names it and what it was doing."""


class RanksFailed(Interruption):
    """Ranks have died, and what was under way did not happen everywhere; ``Ranks.recover`` comes next."""


class Dismissed(Interruption):
    """The server has told this group to leave: for the group this is no early end."""


class TooFewClients(Interruption):
    """Round after round too few clients gave an update: that takes other settings."""

    exit_status = FAILED


class DiskFailed(Interruption):
    """The output folder could not be written for as long as the settings wait: that takes a person."""

    exit_status = FAILED
