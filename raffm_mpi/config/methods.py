"""The federated method: who holds what. Budgets are a choice within a method."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from raffm_mpi.config.base import Fraction, PathName, PositiveInt, SettingsGroup, Share
from raffm_mpi.config.tagged import ByTag


class SpaceSettings(SettingsGroup):
    """Sizes that each kind of dimension may take: whole numbers are sizes, fractions are of the full model's size."""

    ffn: list[int | float] = Field(default=[0.25, 0.5, 0.75, 1.0])
    """Neurons of a feed-forward layer."""
    heads: list[int | float] | None = None
    """Attention heads of a layer; null: every number of them from a quarter up."""
    head_width: list[int | float] = Field(default=[])
    """Width of a head; empty: it stays whole."""
    residual: list[int | float] = Field(default=[])
    """Width of the residual stream, which norms cross; empty: it stays whole."""
    depth: list[int | float] = Field(default=[])
    """Layers from the first on; empty: all."""

    @model_validator(mode="after")
    def _sizes_are_positive(self) -> SpaceSettings:
        for kind, sizes in self:
            bad = [size for size in sizes or [] if size <= 0 or (isinstance(size, float) and size > 1)]
            if bad:
                raise ValueError(
                    f"{kind} has {bad[0]}; allowed are whole numbers from 1 (sizes) and fractions in (0, 1]"
                )
        return self


class SandwichBudget(SettingsGroup):
    """The sandwich rule (Yu and Huang, 2019): one full model, one smallest, random ones for the other clients."""

    kind: Literal["sandwich"] = "sandwich"
    """How large a client's sub-model is."""


class DrawnBudget(SettingsGroup):
    """Each client keeps one share of the full model, drawn by the seed, and holds the largest sub-model within it."""

    kind: Literal["drawn"] = "drawn"
    """How large a client's sub-model is."""
    shares: Annotated[list[Fraction], Field(min_length=1)] = Field(default=[1.0, 0.5, 0.25])
    """Shares of the full model, each as likely."""
    of: Literal["parameters", "flops"] = "parameters"
    """What the shares are of: parameters, or FLOPs of the forward pass."""


class DeviceBudget(SettingsGroup):
    """Each client holds the largest sub-model that its device can hold and have ready by devices.deadline_s."""

    kind: Literal["device"] = "device"
    """How large a client's sub-model is."""


class MethodSettings(SettingsGroup):
    """What every method's settings say of it."""

    name: str

    @property
    def needs_devices(self) -> bool:
        """Whether sub-models are chosen by the clients' devices."""
        return False

    @property
    def distils(self) -> bool:
        """Whether a client's sub-models teach smaller ones, which takes a task with classes."""
        return False


class FedAvgSettings(MethodSettings):
    """FedAvg (McMahan et al., 2017): every client trains the full model."""

    name: Literal["fedavg"] = "fedavg"
    """The method."""


class RaFFMSettings(MethodSettings):
    """RaFFM (Yu, Muñoz, Jannesari, 2023): salient entries first, a sub-model for each client."""

    name: Literal["raffm"] = "raffm"
    """The method."""
    salience: Literal["all", "first_order", "paper", "none"] = "all"
    """What is put in order before a round: every dimension by magnitude or by |w dw|, as the paper, or nothing."""
    space: SpaceSettings = SpaceSettings()
    """The sizes that sub-models may have."""
    budget: Annotated[SandwichBudget | DrawnBudget | DeviceBudget, ByTag("kind", "sandwich")] = SandwichBudget()
    """How large each client's sub-model is."""
    distillation: Share = 0.0
    """The share of the loss by which clients with the full model teach smaller ones of their own."""

    @property
    def needs_devices(self) -> bool:
        return isinstance(self.budget, DeviceBudget)

    @property
    def distils(self) -> bool:
        return self.distillation > 0


class BudgetSettings(MethodSettings):
    """A method whose clients have budgets."""

    budget: Annotated[DrawnBudget | DeviceBudget, ByTag("kind", "drawn")] = DrawnBudget()
    """How large each client's sub-model is."""

    @property
    def needs_devices(self) -> bool:
        return isinstance(self.budget, DeviceBudget)


class WidthSettings(BudgetSettings):
    """A method that narrows axes, all to the same share."""

    axes: list[Literal["ffn", "heads", "residual"]] = Field(default=["ffn", "heads", "residual"], min_length=1)
    """The axes that are narrowed."""


class HeteroFLSettings(WidthSettings):
    """HeteroFL (Diao, Ding, Tarokh, 2021): the leading share of every axis."""

    name: Literal["heterofl"] = "heterofl"
    """The method."""


class FedRolexSettings(WidthSettings):
    """FedRolex (Alam, Liu, Yan, Zhang, 2022): a window of every axis that rolls on each round."""

    name: Literal["fedrolex"] = "fedrolex"
    """The method."""


class FjORDSettings(WidthSettings):
    """FjORD (Horváth et al., 2021): a width drawn at each step, at most the client's own, which may teach it."""

    name: Literal["fjord"] = "fjord"
    """The method."""
    distillation: Share = 0.0
    """The share of the loss that is the divergence from the client's own width."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """The temperature of that divergence: the higher, the softer the classes."""

    @property
    def distils(self) -> bool:
        return self.distillation > 0

    def without_effect(self) -> dict[str, str]:
        return {} if self.distils else {"temperature": "goes with distillation above 0"}


class DepthFLSettings(BudgetSettings):
    """Depth prefixes after DepthFL (Kim, Yu, Kim, Moon, 2023): the first layers."""

    name: Literal["depthfl"] = "depthfl"
    """The method."""


class FIARSESettings(BudgetSettings):
    """Sparse sub-models after FIARSE (Wu et al., 2024): the largest entries of every matrix."""

    name: Literal["fiarse"] = "fiarse"
    """The method."""


class PruneFLSettings(MethodSettings):
    """PruneFL (Jiang et al., 2022): one sparse model for all, chosen anew after every n-th round, which is dense."""

    name: Literal["prunefl"] = "prunefl"
    """The method."""
    density: Fraction = 0.5
    """The share of each matrix's entries that stays."""
    reconfigure_every: PositiveInt = 10
    """Rounds from one dense round to the next."""

    def without_effect(self) -> dict[str, str]:
        return {"reconfigure_every": "goes with density below 1"} if self.density == 1 else {}


class PriSMSettings(BudgetSettings):
    """PriSM (Niu et al., 2023): principal components of every linear layer of the layers."""

    name: Literal["prism"] = "prism"
    """The method."""


class CustomSettings(MethodSettings):
    """A method of your own: a class of raffm_mpi.methods.Method in a file of yours."""

    name: Annotated[PathName, Field(pattern=r"\.py:\w+$")]
    """The file and the class, as path/to/file.py:ClassName."""
    options: dict[str, Any] = Field(default={})
    """What the class reads as self.settings.options."""


_METHODS = ByTag("name", written="file.py:Class")
_Methods: TypeAlias = (
    FedAvgSettings
    | RaFFMSettings
    | HeteroFLSettings
    | FedRolexSettings
    | FjORDSettings
    | DepthFLSettings
    | FIARSESettings
    | PruneFLSettings
    | PriSMSettings
    | CustomSettings
)
AnyMethod: TypeAlias = Annotated[_Methods, _METHODS]
METHOD_SETTINGS: dict[str, type[Any]] = _METHODS.members(_Methods)  # by name
