"""What one node was measured to do: a small YAML file that ``raffm-mpi calibrate`` writes and ``forecast`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from raffm_mpi.config import PositiveInt, Seconds, SettingsGroup, check, read_yaml, write_yaml
from raffm_mpi.devices import DEVICE_NUMBERS, Profile
from raffm_mpi.errors import UserMistake, reason
from raffm_mpi.files import write_text

Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class ExchangeSpeeds(SettingsGroup):
    """Messages between ranks, in the model of :func:`raffm_mpi.forecast.needs.transfer_s`."""

    num_ranks: PositiveInt  # between which this was measured
    num_hosts: PositiveInt
    latency_s: Seconds
    broadcast_bytes_per_s: Rate
    reduce_bytes_per_s: Rate


class Calibration(SettingsGroup):
    """Speeds of one node's client groups, which all worked at a time, and of the server."""

    device: Literal["cpu", "cuda"]
    device_name: str
    cores: PositiveInt  # that the ranks may use
    num_groups: PositiveInt  # that worked at a time
    threads: PositiveInt  # of each
    precision: Literal["fp32", "bf16"]
    parameters: PositiveInt  # of the model that was measured
    memory_bytes: PositiveInt  # of a group's GPU, or of the node
    process_bytes: PositiveInt  # a rank with its libraries loaded, before it has a model
    training_flops_per_s: Rate  # of one group
    evaluation_flops_per_s: Rate
    base_s: NonNegative  # a client's fixed cost beside its steps
    update_bytes_per_s: Rate  # a client's parameters sliced, copied, and its update added to the exact sum
    derive_client_s: NonNegative  # of every rank: what follows from the plan, for each client of the cohort
    pack_bytes_per_s: Rate  # of the server: the envelope
    commit_bytes_per_s: Rate  # of the server: sums divided and added, the model reordered
    commit_client_s: NonNegative  # the same, what each client of the cohort adds to it
    checkpoint_bytes_per_s: Rate
    exchange: ExchangeSpeeds | None  # None: measured in one process, without mpirun
    versions: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read a calibration file; raises UserMistake with one sentence for each mistake."""
        place = f"calibration '{path}'"
        return check(cls, read_yaml(path, place), place, remedy="; measure again with raffm-mpi calibrate")

    def profile(self, like: Profile, like_name: str) -> Profile:
        """A device profile with what was measured; what was not (links, power) is another's, and its sources say so."""
        measured = {"memory_bytes": float(self.memory_bytes), "flops_per_s": self.training_flops_per_s}
        sources = {name: f"that of {like_name}" for name in DEVICE_NUMBERS} | dict.fromkeys(
            measured, f"measured by raffm-mpi calibrate on {self.device_name}, threads: {self.threads}"
        )
        return Profile(**{**like.model_dump(), **measured, "sources": sources})

    def write(self, path: Path) -> None:
        """Write the file whole or not at all; raises UserMistake where it cannot be written."""
        text = write_yaml(self.model_dump(mode="json"))
        try:
            write_text(path, f"# Measured by raffm-mpi calibrate; see docs/scaling.md.\n{text}")
        except OSError as error:
            raise UserMistake(f"calibration '{path}' cannot be written: {reason(error)}") from None
