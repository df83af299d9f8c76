"""Which data set is trained on, how it is split, and how it is dealt to clients."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from raffm_mpi.config.base import PathName, PositiveInt, SettingsGroup
from raffm_mpi.config.tagged import ByTag


def _columns(columns: Any) -> Any:
    """A name or a list of names for each role; a role that has null is left out."""
    if not isinstance(columns, dict):
        raise ValueError(f"{columns!r} is not allowed; give a column for each role, such as {{text: review}}")
    for role, given in columns.items():
        names = given if isinstance(given, list) else [given]
        if given is not None and not (names and all(isinstance(name, str) for name in names)):
            raise ValueError(f"{role} is {given!r}; allowed are the name of a column and a list of names")
    return {role: given for role, given in columns.items() if given is not None}


Columns = Annotated[dict[str, Any], BeforeValidator(_columns)]


class PartitionSettings(SettingsGroup):
    """How the examples are dealt to the clients: what every way to do so has."""

    kind: str
    min_examples: PositiveInt = 1
    """Examples that every client must get; kind dirichlet moves some to clients that lack them."""

    @property
    def client_column(self) -> str | None:
        """The column whose values name the clients, where one does."""
        return None


class IIDPartition(PartitionSettings):
    """Equal sizes, give or take one, at random."""

    kind: Literal["iid"] = "iid"
    """How examples are dealt."""


class DirichletPartition(PartitionSettings):
    """Label skew: each class is dealt in proportions drawn from a Dirichlet distribution (Hsu et al., 2019)."""

    kind: Literal["dirichlet"] = "dirichlet"
    """How examples are dealt."""
    alpha: Annotated[float, Field(gt=0)] = 0.5
    """The concentration of the distribution: the smaller, the fewer classes a client sees."""


class ShardsPartition(PartitionSettings):
    """Sorted by label and cut into equal shards, of which a client gets a few (McMahan et al., 2017)."""

    kind: Literal["shards"] = "shards"
    """How examples are dealt."""
    shards_per_client: PositiveInt = 2
    """Shards of each client."""


class KShotPartition(PartitionSettings):
    """As many examples of every class for every client."""

    kind: Literal["k_shot"] = "k_shot"
    """How examples are dealt."""
    shots: PositiveInt = 16
    """Examples of each class that a client gets."""
    replacement: bool = False
    """Whether several clients may get the same example."""


class ByColumnPartition(PartitionSettings):
    """A client for each value of a column, in order of value."""

    kind: Literal["by_column"] = "by_column"
    """How examples are dealt."""
    column: str
    """The column whose values name the clients."""

    @property
    def client_column(self) -> str:
        return self.column


AnyPartition: TypeAlias = Annotated[
    IIDPartition | DirichletPartition | ShardsPartition | KShotPartition | ByColumnPartition, ByTag("kind", "iid")
]


class DataSettings(SettingsGroup):
    """The data set, its splits, and what becomes of its texts."""

    path: PathName = "digits"
    """A data set on the Hugging Face hub, a folder, or digits, scikit-learn's 1,797 images of 8 x 8 pixels."""
    subset: str | None = None
    """A configuration of the data set, such as GLUE's mrpc, or a sub-folder."""
    task: str | None = None
    """What is learnt, a task of docs/tasks.md; null: inferred from the columns."""
    columns: Columns = Field(default={})
    """The column in each role of the task, or a list of columns; what is left out is inferred, but for target."""
    train_split: str = "train"
    """The split that is dealt to the clients."""
    validation_split: str | None = None
    """The split that models are evaluated on during the run; null: found by its name, or cut off from training."""
    test_split: str | None = None
    """The split for the last scores; null: found by its name, where its labels are not withheld."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of the training split that is cut off for validation where there is no split for it."""
    max_length: PositiveInt = 128
    """Tokens of a text; longer ones are cut, or for question answering made into several windows."""
    max_target_length: PositiveInt = 64
    """Tokens of a target; longer ones are cut. Of seq2seq."""
    doc_stride: PositiveInt | None = None
    """Tokens that successive windows of one context share; null: a quarter of max_length. Of question answering."""
    tokenizer: PathName | None = None
    """A hub name or folder with a fast tokenizer; null: that of model.name."""
    cache: Annotated[PathName, Field(validate_default=True)] = "~/.cache/raffm_mpi"
    """The folder for prepared examples, which later runs on the same data use again."""
    partition: AnyPartition = IIDPartition()
    """How the examples are dealt to the clients."""

    def without_effect(self) -> dict[str, str]:
        is_idle = self.validation_split is not None and self.validation_fraction > 0  # 0 says what happens
        return {"validation_fraction": "goes without validation_split"} if is_idle else {}

    @model_validator(mode="after")
    def _windows_move_on(self) -> DataSettings:
        if self.doc_stride is not None and self.doc_stride >= self.max_length:
            raise ValueError(f"doc_stride {self.doc_stride} must be smaller than max_length {self.max_length}")
        return self
