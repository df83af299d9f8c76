"""The GPUs of a rank: what the host has, what torch sees, which the rank would take, whether MPI takes its memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from raffm_mpi.config import ComputeSettings
from raffm_mpi.exchange.probe import echo

_MOST = 16  # a rank names at most so many GPUs


@dataclass(frozen=True)
class GPUs:
    """``present`` counts the host's, ``seen`` names those that torch sees, ``taken`` the one that this rank would take.

    ``echo`` is "right" where MPI transferred the memory of that GPU, else what went wrong; empty where not tried.
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


def _name(number: int) -> str:
    """A GPU's model and identity, which is the same on all ranks that share it, whatever number each gives it."""
    import torch

    properties = torch.cuda.get_device_properties(number)
    return f"{properties.name} {str(getattr(properties, 'uuid', f'number {number}'))[:13]}"
