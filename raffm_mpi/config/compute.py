"""What the ranks compute with."""

from __future__ import annotations

from typing import Literal

from raffm_mpi.config.base import PositiveInt, SettingsGroup


class ComputeSettings(SettingsGroup):
    """What a client group computes with, and the server."""

    threads_per_group: PositiveInt = 1
    """Threads of each rank on its CPU cores; the model's bits depend on it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers of the forward pass in training; bf16 takes a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where ranks compute; auto: on a GPU where there is one."""
    server_device: Literal["auto", "cpu"] = "auto"
    """Where a server with client groups beside it computes; cpu keeps it off their GPUs."""
    gpu_aware_mpi: bool = False
    """Whether MPI is handed the memory of GPUs; a transfer of it is tried first."""

    def without_effect(self) -> dict[str, str]:
        idle = "goes with device auto or cuda, not cpu"
        return {"server_device": idle, "gpu_aware_mpi": idle} if self.device == "cpu" else {}
