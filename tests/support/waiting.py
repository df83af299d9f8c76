"""How long tests wait: until the event is there, and for a hang alone they give up.

No test depends on how fast the machine is. ``RAFFM_MPI_TEST_TIMEOUT_S`` sets the time after which a wait is a hang.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

TIMEOUT_S = float(os.environ.get("RAFFM_MPI_TEST_TIMEOUT_S", "600"))


def wait_until(condition: Callable[[], object], what: str | Callable[[], str], every_s: float = 0.05) -> None:
    """Return as soon as ``condition()`` is true; after ``TIMEOUT_S`` raise AssertionError with what was waited for."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {TIMEOUT_S:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(every_s)
