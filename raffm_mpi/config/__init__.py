"""Settings of a run: typed, checked at the edge, unknown keys refused, every mistake reported at once."""

from raffm_mpi.config.aggregation import AggregationSettings, AnyAggregation
from raffm_mpi.config.base import PathName, PositiveInt, Seconds, SettingsGroup, Shares
from raffm_mpi.config.compute import ComputeSettings
from raffm_mpi.config.data import (
    AnyPartition,
    ByColumnPartition,
    DataSettings,
    DirichletPartition,
    IIDPartition,
    KShotPartition,
    PartitionSettings,
    ShardsPartition,
)
from raffm_mpi.config.devices import (
    AlwaysAvailable,
    AnyAvailability,
    AvailabilitySettings,
    DailyAvailability,
    DeviceSettings,
    FileAvailability,
    OnOffAvailability,
)
from raffm_mpi.config.evaluation import EvaluationSettings
from raffm_mpi.config.federation import FederationSettings
from raffm_mpi.config.log import LogSettings
from raffm_mpi.config.methods import (
    METHOD_SETTINGS,
    AnyMethod,
    BudgetSettings,
    CustomSettings,
    DepthFLSettings,
    DeviceBudget,
    DrawnBudget,
    FedAvgSettings,
    FedRolexSettings,
    FIARSESettings,
    FjORDSettings,
    HeteroFLSettings,
    MethodSettings,
    PriSMSettings,
    PruneFLSettings,
    RaFFMSettings,
    SandwichBudget,
    SpaceSettings,
)
from raffm_mpi.config.model import LoRASettings, ModelSettings
from raffm_mpi.config.reading import apply_overrides, check, check_logged, check_settings, load_settings
from raffm_mpi.config.reliability import ReliabilitySettings
from raffm_mpi.config.sentences import nearest, suggestion
from raffm_mpi.config.server import AnyServer, ServerSettings
from raffm_mpi.config.settings import Settings
from raffm_mpi.config.strict_yaml import read_yaml, write_yaml
from raffm_mpi.config.training import AdamWTraining, AnyTraining, SGDTraining, TrainingSettings

__all__ = [
    "METHOD_SETTINGS",
    "AdamWTraining",
    "AggregationSettings",
    "AlwaysAvailable",
    "AnyAggregation",
    "AnyAvailability",
    "AnyMethod",
    "AnyPartition",
    "AnyServer",
    "AnyTraining",
    "AvailabilitySettings",
    "BudgetSettings",
    "ByColumnPartition",
    "ComputeSettings",
    "CustomSettings",
    "DailyAvailability",
    "DataSettings",
    "DepthFLSettings",
    "DeviceBudget",
    "DeviceSettings",
    "DirichletPartition",
    "DrawnBudget",
    "EvaluationSettings",
    "FIARSESettings",
    "FedAvgSettings",
    "FedRolexSettings",
    "FederationSettings",
    "FileAvailability",
    "FjORDSettings",
    "HeteroFLSettings",
    "IIDPartition",
    "KShotPartition",
    "LoRASettings",
    "LogSettings",
    "MethodSettings",
    "ModelSettings",
    "OnOffAvailability",
    "PartitionSettings",
    "PathName",
    "PositiveInt",
    "PriSMSettings",
    "PruneFLSettings",
    "RaFFMSettings",
    "ReliabilitySettings",
    "SGDTraining",
    "SandwichBudget",
    "Seconds",
    "ServerSettings",
    "Settings",
    "SettingsGroup",
    "ShardsPartition",
    "Shares",
    "SpaceSettings",
    "TrainingSettings",
    "apply_overrides",
    "check",
    "check_logged",
    "check_settings",
    "load_settings",
    "nearest",
    "read_yaml",
    "suggestion",
    "write_yaml",
]
