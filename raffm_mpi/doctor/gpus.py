"""The GPUs of a rank: what the host has, what torch sees, which it would take, and whether MPI takes their memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from raffm_mpi.config import ComputeSettings
from raffm_mpi.doctor.launcher import apart_from_the_job

_ECHO = (sys.executable, "-m", "raffm_mpi.federation.probe")
_ECHO_TIMEOUT_S = 60.0
_MOST = 16  # GPUs that a rank names


@dataclass(frozen=True)
class GPUs:
    """``present`` counts the host's, ``seen`` names those that torch sees, ``taken`` the one that this rank would take.

    ``echo`` is "right" where MPI moved a buffer of it, else what went wrong; empty where that was not tried.
    """

    present: int = 0
    seen: tuple[str, ...] = ()
    taken: str = ""
    visible: str | None = None  # CUDA_VISIBLE_DEVICES
    echo: str = ""


def look_for_gpus(settings: ComputeSettings, index: int, with_echo: bool) -> GPUs:
    """The GPUs as rank ``index`` of its host finds them; torch is imported only where there may be one."""
    present = sum(1 for pattern in ("nvidia[0-9]*", "kfd", "dxg") for _ in Path("/dev").glob(pattern))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not present or settings.device == "cpu":
        return GPUs(present, visible=visible)
    import torch

    names = [_name(number) for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if not names:
        return GPUs(present, visible=visible)
    own = index % len(names)
    result = echo(f"cuda:{own}") if with_echo else ""
    return GPUs(present, tuple(names[:_MOST]), names[own], visible, result)


def echo(device: str, command: tuple[str, ...] = _ECHO) -> str:
    """What came of an MPI transfer of a device's buffer, in a process of its own, which may crash.

    >>> echo("cpu", ("echo", "right"))
    'right'
    """
    try:
        done = subprocess.run(
            [*command, device],
            capture_output=True,
            text=True,
            timeout=_ECHO_TIMEOUT_S,
            env=apart_from_the_job(os.environ),
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_ECHO_TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"not started: {error.strerror}"
    if done.returncode < 0:
        return f"it ended with signal {-done.returncode}"
    answer = (done.stdout.split() or [""])[0]
    if done.returncode == 0 and answer:
        return answer
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"it ended with status {done.returncode}: {last[:200]}"


def _name(number: int) -> str:
    """A GPU's model and identity, by which two ranks know that they share it, however each of them counts."""
    import torch

    properties = torch.cuda.get_device_properties(number)
    return f"{properties.name} {str(getattr(properties, 'uuid', f'number {number}'))[:13]}"
