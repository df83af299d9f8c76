"""All settings of a run, and what one group asks of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raffm_mpi.config.aggregation import AnyAggregation, MeanAggregation
from raffm_mpi.config.base import PathName, SettingsGroup
from raffm_mpi.config.compute import ComputeSettings
from raffm_mpi.config.data import DataSettings
from raffm_mpi.config.devices import DeviceSettings
from raffm_mpi.config.evaluation import EvaluationSettings
from raffm_mpi.config.federation import FederationSettings
from raffm_mpi.config.log import LogSettings
from raffm_mpi.config.methods import AnyMethod, PriSMSettings, RaFFMSettings
from raffm_mpi.config.model import ModelSettings
from raffm_mpi.config.reliability import ReliabilitySettings
from raffm_mpi.config.server import AnyServer, NoServerOptimizer
from raffm_mpi.config.strict_yaml import write_yaml
from raffm_mpi.config.training import AdamWTraining, AnyTraining


class Settings(SettingsGroup):
    """What belongs to no group, and the groups."""

    seed: Annotated[int, Field(ge=0)] = 0
    """What every random number follows from."""
    output: PathName
    """The folder of the run: run.h5, checkpoints/, model/, config.yaml."""
    resume: Literal["never", "auto"] = "never"
    """Whether the run in the output folder goes on, as --resume; auto begins it where there is none."""
    model: ModelSettings
    """Which transformer is trained."""
    data: DataSettings = DataSettings()
    """Which data set, and how it is dealt to clients."""
    federation: FederationSettings = FederationSettings()
    """The population and the rounds."""
    method: AnyMethod = RaFFMSettings()
    """Who holds what."""
    aggregation: AnyAggregation = MeanAggregation()
    """How updates become the next global model."""
    training: AnyTraining = AdamWTraining()
    """Local training on a client."""
    server: AnyServer = NoServerOptimizer()
    """The server's step on the mean update."""
    devices: DeviceSettings | None = None
    """The clients' devices; null: they have none, and nothing is simulated in virtual time."""
    compute: ComputeSettings = ComputeSettings()
    """What the ranks compute with."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """When and where models are evaluated, and which."""
    reliability: ReliabilitySettings = ReliabilitySettings()
    """Checkpoints, and how long a run waits for ranks and disks."""
    log: LogSettings = LogSettings()
    """How the log is written."""

    @model_validator(mode="after")
    def _groups_go_together(self) -> Settings:
        contradictions = list(self._contradictions())
        if contradictions:
            raise ValueError("; ".join(contradictions))
        return self

    def _contradictions(self) -> Iterator[str]:
        """A sentence for each group that asks of another what is not there."""
        if self.federation.num_clients is None and self.data.partition.kind != "by_column":
            yield "federation.num_clients is missing; only data.partition.kind by_column can infer it from the data"
        if self.method.needs_devices and self.devices is None:
            yield "method.budget device needs devices, which is missing"
        if self.aggregation.needs_adapters and self.model.lora is None:
            yield f"aggregation {self.aggregation.kind} is of adapters and needs model.lora, which is missing"
        kind, optimizer = self.aggregation.kind, self.server.optimizer
        if not self.aggregation.is_mean and optimizer != "none":
            yield f"server.optimizer {optimizer} steps on a mean update, which aggregation {kind} does not give"
        others = {"model.lora": self.model.lora is not None, "server.optimizer": optimizer != "none"}
        found = [name for name, is_there in others.items() if is_there]
        if isinstance(self.method, PriSMSettings) and found:
            yield f"method prism factorises the model anew in each round, which {found[0]} cannot follow"

    def to_yaml(self) -> str:
        """The resolved settings, every default written out, without those that have no effect."""
        return write_yaml(self.model_dump(mode="json"))
