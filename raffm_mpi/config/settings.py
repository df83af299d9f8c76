"""Settings of a run: typed, checked at the edge, unknown keys refused, every mistake reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from raffm_mpi.errors import UserMistake

Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


def _add_up(shares: Any) -> Any:
    if isinstance(shares, str):
        return shares
    for name, share in shares.items():
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"the share of {name} is {share!r}; allowed are fractions in (0, 1]")
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"the shares add up to {total:g}; allowed is 1")
    return shares


Shares = Annotated[dict[str, Any], AfterValidator(_add_up)]
BudgetOf: TypeAlias = Literal["parameters", "flops"]
Task = Literal[
    "image_classification", "text_classification", "regression", "question_answering", "seq2seq", "causal_lm"
]


class SettingsGroup(BaseModel):
    """A group of settings: no unknown keys, frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class LoRASettings(SettingsGroup):
    """LoRA (Hu et al., 2021): clients train adapters and the task head, and the base stays as it is.

    ``targets`` are the linear layers that have adapters, by full path or its end; left out, those of attention. With
    ``ranks`` each client keeps one of them, drawn by the seed; without, all have ``rank``.
    """

    rank: PositiveInt = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[str], Field(min_length=1)] | None = None
    ranks: list[PositiveInt] = []
    aggregation: Literal["mean", "hetlora", "flexlora", "stacking"] = "mean"

    @model_validator(mode="after")
    def _ranks_are_within_rank(self) -> LoRASettings:
        above = [rank for rank in self.ranks if rank > self.rank]
        if above:
            raise ValueError(f"ranks has {above[0]}, which is more than rank {self.rank}")
        return self


class ModelSettings(SettingsGroup):
    """Which transformer: pretrained by ``name`` (hub name or folder), or from scratch by ``family`` and ``config``.

    With ``lora`` it gets adapters, and they are what clients train.
    """

    name: str | None = None
    family: str | None = None
    config: dict[str, Any] = {}
    lora: LoRASettings | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelSettings:
        if (self.name is None) == (self.family is None):
            raise ValueError(
                "give either name (a hub name or folder with weights) or family (with config), not both or none"
            )
        return self


class ColumnSettings(SettingsGroup):
    """Column names of the data set; what is left out is inferred, but for ``target``, which makes the task seq2seq."""

    image: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    question: str | None = None
    context: str | None = None
    answers: str | None = None
    target: str | None = None


class PartitionSettings(SettingsGroup):
    """How examples are dealt to clients; see :mod:`raffm_mpi.data`."""

    kind: Literal["iid", "dirichlet", "shards", "k_shot", "by_column"] = "iid"
    alpha: Annotated[float, Field(gt=0)] = 0.5
    min_examples: PositiveInt = 1
    shards_per_client: PositiveInt = 2
    shots: PositiveInt = 16
    replacement: bool = False
    column: str | None = None

    @model_validator(mode="after")
    def _column_goes_with_by_column(self) -> PartitionSettings:
        if (self.kind == "by_column") != (self.column is not None):
            raise ValueError("kind by_column needs column, and no other kind takes it")
        return self


class DataSettings(SettingsGroup):
    """Which data set, how it is split and dealt to clients, and how long its texts may be (in tokens).

    ``task`` is inferred from the columns when it is left out. ``subset`` is a configuration of the data set
    (GLUE's "mrpc") or a sub-folder. ``doc_stride`` is what successive windows of one context share (question
    answering); left out, a quarter of ``max_length``. ``max_target_length`` is of seq2seq.
    """

    path: str = "digits"
    subset: str | None = None
    task: Task | None = None
    columns: ColumnSettings = ColumnSettings()
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = None
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_length: PositiveInt = 128
    max_target_length: PositiveInt = 64
    doc_stride: PositiveInt | None = None
    tokenizer: str | None = None
    cache: str = "~/.cache/raffm_mpi"
    partition: PartitionSettings = PartitionSettings()

    @model_validator(mode="after")
    def _windows_move_on(self) -> DataSettings:
        if self.doc_stride is not None and self.doc_stride >= self.max_length:
            raise ValueError(f"doc_stride {self.doc_stride} must be smaller than max_length {self.max_length}")
        return self


class FederationSettings(SettingsGroup):
    """The population and the rounds.

    A round whose cohort gives fewer than ``min_trained`` updates is repeated with another cohort, ``max_repeats`` times
    at most; then the run stops.
    """

    num_clients: PositiveInt | None = None
    participation: Fraction = 0.1
    num_rounds: PositiveInt = 10
    min_trained: PositiveInt = 1
    max_repeats: Annotated[int, Field(ge=0)] = 3
    paper_faithful: bool = False


class SpaceSettings(SettingsGroup):
    """Sizes that each kind of dimension may take: whole numbers are sizes, fractions are of the full model's size."""

    ffn: list[int | float] = [0.25, 0.5, 0.75, 1.0]
    heads: list[int | float] | None = None
    head_width: list[int | float] = []
    residual: list[int | float] = []
    depth: list[int | float] = []

    @model_validator(mode="after")
    def _sizes_are_positive(self) -> SpaceSettings:
        for kind, sizes in self:
            bad = [s for s in sizes or [] if s <= 0 or (isinstance(s, float) and s > 1)]
            if bad:
                raise ValueError(
                    f"{kind} has {bad[0]}; allowed are whole numbers from 1 (sizes) and fractions in (0, 1]"
                )
        return self


class FedAvgSettings(SettingsGroup):
    """FedAvg (McMahan et al., 2017): every client trains the full model."""

    name: Literal["fedavg"] = "fedavg"


class RaFFMSettings(SettingsGroup):
    """RaFFM (Yu, Muñoz, Jannesari, 2023): salient entries first, a sub-model for each client.

    ``distillation`` is the share of the loss by which clients with the full model teach smaller ones of their own.
    ``budget: device`` gives each client the largest sub-model that its device can hold and have ready in time.
    """

    name: Literal["raffm"] = "raffm"
    salience: Literal["all", "first_order", "paper", "none"] = "all"
    widths: Literal["sandwich", "budget"] = "sandwich"
    space: SpaceSettings = SpaceSettings()
    budgets: list[Fraction] = []
    budget_of: BudgetOf = "parameters"
    budget: Literal["drawn", "device"] = "drawn"
    distillation: Share = 0.0

    @model_validator(mode="before")
    @classmethod
    def _devices_are_budgets(cls, values: Any) -> Any:
        return (
            {"widths": "budget", **values} if isinstance(values, dict) and values.get("budget") == "device" else values
        )

    @model_validator(mode="after")
    def _budgets_go_with_budget(self) -> RaFFMSettings:
        if (self.widths == "budget") != (bool(self.budgets) or self.budget == "device"):
            raise ValueError(
                "widths budget needs budgets (a list of fractions) or budget device, and widths sandwich takes none"
            )
        return self


class BudgetSettings(SettingsGroup):
    """Clients with budgets: shares of the full model, of which each keeps one drawn by the seed, or their devices.

    ``budget: device`` gives each client the largest sub-model that its device can hold and have ready in time.
    """

    budgets: Annotated[list[Fraction], Field(min_length=1)] = [1.0, 0.5, 0.25]
    budget_of: BudgetOf = "parameters"
    budget: Literal["drawn", "device"] = "drawn"


class WidthSettings(BudgetSettings):
    """The axes that are narrowed, all to the same share."""

    axes: Annotated[list[Literal["ffn", "heads", "residual"]], Field(min_length=1)] = ["ffn", "heads", "residual"]


class HeteroFLSettings(WidthSettings):
    """HeteroFL (Diao, Ding, Tarokh, 2021): the leading share of every axis."""

    name: Literal["heterofl"] = "heterofl"


class FedRolexSettings(WidthSettings):
    """FedRolex (Alam, Liu, Yan, Zhang, 2022): a window of every axis that rolls on each round."""

    name: Literal["fedrolex"] = "fedrolex"


class FjORDSettings(WidthSettings):
    """FjORD (Horváth et al., 2021): a width drawn at each step, at most the client's own, which may teach it.

    ``distillation`` is the share of the loss that is the divergence from the client's own width.
    """

    name: Literal["fjord"] = "fjord"
    distillation: Share = 0.0
    temperature: Annotated[float, Field(gt=0)] = 1.0


class DepthFLSettings(BudgetSettings):
    """Depth prefixes after DepthFL (Kim, Yu, Kim, Moon, 2023): the first layers."""

    name: Literal["depthfl"] = "depthfl"


class FIARSESettings(BudgetSettings):
    """Sparse sub-models after FIARSE (Wu et al., 2024): the largest entries of every matrix."""

    name: Literal["fiarse"] = "fiarse"


class PruneFLSettings(SettingsGroup):
    """PruneFL (Jiang et al., 2022): one sparse model for all, chosen anew after every n-th round, which is dense."""

    name: Literal["prunefl"] = "prunefl"
    density: Fraction = 0.5
    reconfigure_every: PositiveInt = 10


class PriSMSettings(BudgetSettings):
    """PriSM (Niu et al., 2023): principal components of every linear layer of the layers."""

    name: Literal["prism"] = "prism"


class CustomSettings(SettingsGroup):
    """A method of the user's own: ``name`` is ``path/to/file.py:ClassName``, ``options`` are the class's."""

    name: Annotated[str, Field(pattern=r"\.py:\w+$")]
    options: dict[str, Any] = {}


def _tag(method: Any) -> str | None:
    """Which settings a method's are, by its name."""
    name = method.get("name") if isinstance(method, dict) else getattr(method, "name", None)
    return _CUSTOM if isinstance(name, str) and ":" in name else name


def _named(method: Any) -> Any:
    """A method by its name alone has its default settings: ``method=fedavg``."""
    return {"name": method} if isinstance(method, str) else method


_CUSTOM = "file.py:Class"
MethodSettings: TypeAlias = (
    Annotated[FedAvgSettings, Tag("fedavg")]
    | Annotated[RaFFMSettings, Tag("raffm")]
    | Annotated[HeteroFLSettings, Tag("heterofl")]
    | Annotated[FedRolexSettings, Tag("fedrolex")]
    | Annotated[FjORDSettings, Tag("fjord")]
    | Annotated[DepthFLSettings, Tag("depthfl")]
    | Annotated[FIARSESettings, Tag("fiarse")]
    | Annotated[PruneFLSettings, Tag("prunefl")]
    | Annotated[PriSMSettings, Tag("prism")]
    | Annotated[CustomSettings, Tag(_CUSTOM)]
)
METHODS: dict[str, type[SettingsGroup]] = {
    tag.tag: own for own, tag in (get_args(one) for one in get_args(MethodSettings))
}


class TrainingSettings(SettingsGroup):
    """Local training on a client."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    proximal: Annotated[float, Field(ge=0)] = 0.0  # FedProx's mu
    batch_size: PositiveInt = 64
    local_epochs: PositiveInt | None = None
    local_steps: PositiveInt | None = None
    learning_rate_decay: Fraction = 1.0
    decay_every_rounds: PositiveInt = 5

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSettings:
        if self.local_epochs is not None and self.local_steps is not None:
            raise ValueError("give local_epochs or local_steps, not both (one epoch if both are left out)")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum goes with optimizer sgd, not {self.optimizer}")
        return self


# What each server optimiser is set by, and its value where it is not given.
_SERVER_DEFAULTS: dict[str, dict[str, float]] = {
    "none": {},
    "fedavgm": {"learning_rate": 1.0, "momentum": 0.9},
    "fedadagrad": {"learning_rate": 0.01, "tau": 1e-3},
    "fedadam": {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    "fedyogi": {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
}


def _with_defaults(values: Any, choice: str, default: str, known: Mapping[str, dict[str, Any]]) -> Any:
    """The values of a group with the defaults of what was chosen in it."""
    if not isinstance(values, dict):
        return values
    chosen = values.get(choice, default)
    defaults = known.get(chosen, {}) if isinstance(chosen, str) else {}
    return {**defaults, **{name: value for name, value in values.items() if value is not None}}


def _check_given(values: Mapping[str, Any], choice: str, chosen: str, known: Mapping[str, dict[str, Any]]) -> None:
    """Raise ValueError for a value that goes with another choice."""
    for name in values:
        if name not in known[chosen]:
            others = [other for other, defaults in known.items() if name in defaults]
            raise ValueError(f"{name} goes with {choice} {', '.join(others)}, not {chosen}")


class ServerSettings(SettingsGroup):
    """The server's step on the mean update (:mod:`raffm_mpi.aggregation.server_optimizer`); ``none`` adds it as it is.

    What goes with the optimizer and is left out gets its default (``learning_rate`` 1 for fedavgm, 0.01 for the
    adaptive ones); the rest stays null.
    """

    optimizer: Literal["none", "fedavgm", "fedadagrad", "fedadam", "fedyogi"] = "none"
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    tau: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        return _with_defaults(values, "optimizer", "none", _SERVER_DEFAULTS)

    @model_validator(mode="after")
    def _go_with_the_optimizer(self) -> ServerSettings:
        _check_given(self.numbers, "optimizer", self.optimizer, _SERVER_DEFAULTS)
        return self

    @property
    def numbers(self) -> dict[str, float]:
        """What the optimizer is set by, by name."""
        return self.model_dump(exclude={"optimizer"}, exclude_none=True)


# What each kind of availability is set by, and its value where it is not given.
_AVAILABILITY_DEFAULTS: dict[str, dict[str, Any]] = {
    "always": {},
    "on_off": {"on_s": 14400.0, "off_s": 14400.0},
    "daily": {"on_s": 28800.0, "start_h": 22.0, "spread_h": 2.0},
    "file": {"path": None},
}


class AvailabilitySettings(SettingsGroup):
    """When clients can be reached, in virtual time.

    ``on_off``: for ``on_s``, then not for ``off_s``, each client from a moment of its own. ``daily``: once a day for
    ``on_s`` from ``start_h`` o'clock, give or take ``spread_h`` (a standard deviation). ``file``: a CSV file of
    intervals with the columns trace, start_s and end_s, which repeats; client k follows trace k modulo their number.
    """

    kind: Literal["always", "on_off", "daily", "file"] = "always"
    on_s: Seconds | None = None
    off_s: Seconds | None = None
    start_h: Annotated[float, Field(ge=0, lt=24)] | None = None
    spread_h: Annotated[float, Field(ge=0)] | None = None
    path: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        return _with_defaults(values, "kind", "always", _AVAILABILITY_DEFAULTS)

    @model_validator(mode="after")
    def _go_with_the_kind(self) -> AvailabilitySettings:
        _check_given(self.model_dump(exclude={"kind"}, exclude_none=True), "kind", self.kind, _AVAILABILITY_DEFAULTS)
        if self.kind == "file" and self.path is None:
            raise ValueError("kind file needs path")
        if self.kind == "daily" and self.on_s is not None and self.on_s > 86400:
            raise ValueError(f"on_s is {self.on_s:g}, more than the 86400 s of a day")
        return self


class DeviceSettings(SettingsGroup):
    """The clients' devices, and what the virtual clock does with them (docs/devices.md).

    ``population`` is a name or the share of each device; ``profiles`` a file of more devices and populations. A round
    asks ``over_selection`` times more clients than it needs, and takes no update after ``deadline_s``; a client drops
    out of a round with the probability ``dropout``. All seconds are virtual.
    """

    population: Annotated[str | dict[str, Any], AfterValidator(_add_up)]
    profiles: str | None = None
    deadline_s: Seconds | None = None
    over_selection: Annotated[float, Field(ge=0)] = 0.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    availability: AvailabilitySettings = AvailabilitySettings()


class ComputeSettings(SettingsGroup):
    """What a client group computes with, and the server.

    ``server_device`` cpu keeps a server that has client groups beside it off their GPUs. ``gpu_aware_mpi`` hands MPI
    the memory of GPUs; a transfer of it is tried first.
    """

    threads_per_group: PositiveInt = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    server_device: Literal["auto", "cpu"] = "auto"
    gpu_aware_mpi: bool = False


class EvaluationSettings(SettingsGroup):
    """When and where models are evaluated, and which."""

    every: PositiveInt = 1
    placement: Literal["auto", "server", "groups"] = "auto"
    batch_size: PositiveInt = 256
    submodels: Literal["never", "last", "always"] = "last"
    personal: bool = True  # each client's score on its share of the test split, after the last round


class ReliabilitySettings(SettingsGroup):
    """Checkpoints, and how long a run waits before it gives up on a rank or a disk (docs/reliability.md).

    ``checkpoint_every`` counts rounds; null writes none. ``start_timeout_s`` is how long supervise gives all ranks to
    meet before it starts them again, ``stop_before_end_s`` how long before the end of its allocation a job stops by
    itself.
    """

    checkpoint_every: PositiveInt | None = 1
    checkpoints_kept: PositiveInt = 2
    start_timeout_s: Seconds = 300.0
    hang_timeout_s: Seconds = 1800.0
    disk_patience_s: Annotated[float, Field(ge=0)] = 600.0
    stop_before_end_s: Annotated[float, Field(ge=0)] = 120.0


class LogSettings(SettingsGroup):
    """The HDF5 log; ``tensorboard`` also writes event files as the run goes on."""

    file_locking: bool = True
    tensorboard: bool = False


class Settings(SettingsGroup):
    """All settings of a run, as in ``configs/*.yaml``."""

    seed: Annotated[int, Field(ge=0)] = 0
    output: str
    resume: Literal["never", "auto"] = "never"
    model: ModelSettings
    data: DataSettings = DataSettings()
    federation: FederationSettings = FederationSettings()
    method: Annotated[MethodSettings, Discriminator(_tag), BeforeValidator(_named)] = RaFFMSettings()
    training: TrainingSettings = TrainingSettings()
    server: ServerSettings = ServerSettings()
    devices: DeviceSettings | None = None
    compute: ComputeSettings = ComputeSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    reliability: ReliabilitySettings = ReliabilitySettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _official_arithmetic_is_a_mean(self) -> Settings:
        lora = self.model.lora
        if self.federation.paper_faithful and lora is not None and lora.aggregation != "mean":
            raise ValueError(f"federation.paper_faithful goes with model.lora.aggregation mean, not {lora.aggregation}")
        return self

    @model_validator(mode="after")
    def _budgets_of_devices_need_devices(self) -> Settings:
        if getattr(self.method, "budget", "") == "device" and self.devices is None:
            raise ValueError("method.budget device needs devices, which is missing")
        return self

    @model_validator(mode="after")
    def _num_clients_known(self) -> Settings:
        if self.federation.num_clients is None and self.data.partition.kind != "by_column":
            raise ValueError(
                "federation.num_clients is missing; only data.partition.kind by_column can infer it from the data"
            )
        return self

    @model_validator(mode="after")
    def _official_arithmetic_is_alone(self) -> Settings:
        if self.federation.paper_faithful and self.server.optimizer != "none":
            raise ValueError(
                f"federation.paper_faithful goes with server.optimizer none, not {self.server.optimizer}: the official "
                "arithmetic is no mean update that it could step on"
            )
        return self

    @model_validator(mode="after")
    def _prism_writes_the_model_itself(self) -> Settings:
        others = {"model.lora": self.model.lora is not None, "server.optimizer": self.server.optimizer != "none"}
        found = [name for name, is_there in others.items() if is_there]
        if isinstance(self.method, PriSMSettings) and found:
            raise ValueError(f"method prism factorises the model anew in each round, which {found[0]} cannot follow")
        return self

    @model_validator(mode="after")
    def _optimizers_step_on_a_mean(self) -> Settings:
        lora = self.model.lora
        if lora is not None and lora.aggregation != "mean" and self.server.optimizer != "none":
            raise ValueError(f"server.optimizer goes with model.lora.aggregation mean, not {lora.aggregation}")
        return self

    def to_yaml(self) -> str:
        """The resolved settings, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_settings(path: str | Path, overrides: list[str] | None = None) -> Settings:
    """Read a YAML config and apply ``key=value`` overrides (dotted keys, YAML values).

    Raises UserMistake with one sentence for each mistake, all at once.
    """
    return check_settings(apply_overrides(_read_yaml(Path(path)), overrides or []), str(path))


def check_settings(values: dict[str, Any], source: str) -> Settings:
    """The values as settings; raises UserMistake with one sentence for each mistake, which names their ``source``."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UserMistake("\n".join(_sentences(error, source))) from None


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The values with ``key=value`` overrides applied, in place; UserMistake for one that is not of that form."""
    for override in overrides:
        _apply_override(values, override)
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserMistake(f"config '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserMistake(f"config '{path}' cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserMistake(f"config '{path}' is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserMistake(f"config '{path}' must be a mapping such as 'seed: 0', got {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserMistake(f"override '{override}' is not of the form key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserMistake(f"override '{override}': the value is not YAML") from None
    *parents, last = key.split(".")
    for parent in parents:
        below = values.setdefault(parent, {})
        if below is None:
            below = values[parent] = {}
        if not isinstance(below, dict):
            raise UserMistake(f"override '{override}': '{parent}' is a value, not a group of settings")
        values = below
    values[last] = value


def _sentences(error: ValidationError, source: str) -> list[str]:
    sentences = []
    for item in error.errors():
        place = [part for part in item["loc"] if part not in METHODS]
        where = ".".join(str(part) for part in place) or "settings"
        if item["type"] == "extra_forbidden":
            what = f"unknown key{_suggestion(list(item['loc']))}"
        elif item["type"] == "missing":
            what = "is missing"
        elif item["type"] == "union_tag_invalid":
            what = f"unknown method {item['ctx']['tag']}; known: {', '.join(METHODS)}"
        elif item["type"] == "union_tag_not_found":
            what = f"name is missing; known methods: {', '.join(METHODS)}"
        elif item["type"] == "value_error":
            what = str(item["ctx"]["error"])
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            what = f"{item['input']!r} is not allowed: {message}"
        sentences.append(f"{source}: {where}: {what}")
    return list(dict.fromkeys(sentences))


def _suggestion(place: list[Any]) -> str:
    """The allowed keys beside an unknown one, nearest first; ``place`` is pydantic's, a method's name in it."""
    group: Any = Settings
    for part in place[:-1]:
        if part in METHODS:
            group = METHODS[part]
            continue
        group = group.model_fields[part].annotation
        given = [member for member in get_args(group) if member is not NoneType]
        group = given[0] if len(given) == 1 else group  # one that may be left out
    allowed = list(group.model_fields)
    near = difflib.get_close_matches(str(place[-1]), allowed, n=1)
    return (f", did you mean '{near[0]}'?" if near else ";") + f" allowed: {', '.join(allowed)}"
