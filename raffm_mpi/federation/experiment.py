"""What every rank knows of a run before the first round: data, partition, model structure, method, processor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raffm_mpi import data
from raffm_mpi.aggregation import Aggregator, make_aggregator
from raffm_mpi.config import Settings
from raffm_mpi.devices import Fleet, make_fleet
from raffm_mpi.elastic.adapters import whole_layout
from raffm_mpi.elastic.cost import Lengths
from raffm_mpi.elastic.labels import Selection, Tensors
from raffm_mpi.elastic.submodel import ElasticModel
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.interruptions import Interruption
from raffm_mpi.federation.prices import Limits, Prices
from raffm_mpi.learning.model import inputs_of, load_config, model_structure
from raffm_mpi.learning.training import Processor, examples_seen
from raffm_mpi.methods import Method, check_method, make_method, prepare_model
from raffm_mpi.methods.adapter_ranks import AdapterRanks
from raffm_mpi.tasks import TASKS, inspect, task_of


@dataclass(frozen=True)
class Outline:
    """A run without its examples and weights: who trains what, and what that costs."""

    settings: Settings
    info: data.DataInfo
    partition: data.Partition
    layout: ModelLayout
    method: Method
    prices: Prices
    fleet: Fleet | None  # the clients' devices

    @cached_property
    def aggregator(self) -> Aggregator:
        """What travels, and how clients' results are aggregated."""
        return make_aggregator(self.settings, self.layout)

    @cached_property
    def adapter_ranks(self) -> AdapterRanks:
        """The ranks of the clients' adapters."""
        return AdapterRanks.of(self.settings.model.lora, self.layout, self.settings.seed)

    def selections(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        """What each client of a cohort holds: what the method chooses, and its rank of every adapter."""
        chosen = self.method.selections(round_number, cohort)
        return [{**own, **self.adapter_ranks.of_client(client)} for client, own in zip(cohort, chosen, strict=True)]

    def ladder(self) -> list[Selection]:
        """The sub-models worth evaluating, largest first; the last has the clients' smallest rank."""
        ladder = self.method.ladder()
        smallest = self.adapter_ranks.smallest()
        return [*ladder, {**ladder[-1], **smallest}] if smallest else ladder

    def traffic(self, selections: Sequence[Selection]) -> tuple[np.ndarray, np.ndarray]:
        """Simulated bytes to and from each client of a cohort: int64 ``[cohort]`` each."""
        costs = [self.prices(selection) for selection in selections]
        bytes_up = np.array([cost.bytes for cost in costs], np.int64)
        masks = np.array([cost.mask_bytes for cost in costs], np.int64)  # the client sends what it was sent
        return self.aggregator.bytes_down(bytes_up, selections) + masks, bytes_up

    def can_train(self, client: int, selection: Selection) -> bool:
        """Whether a client's device holds a sub-model; where budgets are of devices it must be ready in time, too."""
        if self.fleet is None:
            return True
        limits = Limits(self.fleet, self.prices, self.partition, self.settings.training)
        by_device = self.settings.method.needs_devices
        return limits(client, selection) if by_device else limits.holds(client, selection)

    def client_flops(self, round_number: int, client: int, selection: Selection) -> float:
        """FLOPs of one client's local training in one round."""
        nested = self.method.nested(round_number, client, selection)
        trained = nested.trained(selection) if nested else [(selection, 1.0)]
        flops = sum(often * self.prices(own).training_flops for own, often in trained)
        return flops * examples_seen(self.settings.training, len(self.partition.client(client)))


@dataclass(frozen=True)
class Experiment(Outline):
    """A run's data, model and method, the same on every rank; only the processor is a rank's own.

    ``order`` is the permutation that a frozen base was put in, and its adapters with it, before the first round.
    """

    examples: data.FederatedData
    model: nn.Module
    processor: Processor
    order: Selection = field(default_factory=dict)

    @cached_property
    def elastic(self) -> ElasticModel:
        """The model on this rank's processor, to be filled with one sub-model after another."""
        return ElasticModel(self.model, self.layout, self.aggregator.sent, self.processor.device)

    def whole(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Every parameter of the global model of which ``tensors`` travel, in the order that the run began with."""
        found = {**self.elastic.fixed, **tensors}
        if not self.order:
            return found
        restored = {name: torch.empty_like(tensor) for name, tensor in found.items()}
        self.layout.put(restored, self.order, found)
        return restored

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the task, the main one first."""
        return task_of(self.info.task).metrics(self.info, self.settings.data.subset)

    def split(self, role: str) -> data.Split:
        """The split in a role that the data set has: train, validation or test."""
        found: data.Split | None = getattr(self.examples, role)
        assert found is not None
        return found

    @cached_property
    def owners(self) -> np.ndarray:
        """The client that each row of the test split belongs to, int64; -1 for nobody's."""
        train, test = self.split("train"), self.split("test")
        _, first, example_of_row = np.unique(test.examples, return_index=True, return_inverse=True)
        owners = data.share(self.partition, train.classes, test.classes[first], self.settings.seed)
        return owners[example_of_row]


@dataclass(frozen=True)
class Look:
    """What is known before an example is prepared or a weight is read: the data set, the model, and what it takes."""

    info: data.DataInfo
    config: Any
    inputs: data.ImageInput | data.TextInput


def look(settings: Settings) -> Look:
    """Look at the data set and the model's structure; raises UserMistake for what contradicts the settings."""
    info = inspect(settings.data)
    kind, num_clients = settings.data.partition.kind, settings.federation.num_clients
    if num_clients is not None and kind not in ("k_shot", "by_column"):
        num_examples = next(split.num_examples for split in info.splits if split.role == "train")
        data.check_enough(settings.data.partition, num_examples, num_clients)
    if settings.method.distils and not task_of(info.task).can_distil:
        allowed = " and ".join(name for name, task in TASKS.items() if task.can_distil)
        raise UserMistake(f"method.distillation: task {info.task} has no classes to distil; allowed with {allowed}")
    config = load_config(settings.model, info)
    inputs = inputs_of(settings.model, settings.data, config, info)
    check_method(settings.method, outlined(settings, config, info))
    if settings.devices:
        make_fleet(settings.devices, num_clients or 1, settings.seed)
    return Look(info, config, inputs)


def outlined(settings: Settings, config: Any, info: data.DataInfo) -> ModelLayout:
    """The layout of the model that clients train, from its structure alone; UserMistake as :func:`look`."""
    return whole_layout(prepare_model(settings.method, model_structure(settings.model, config, info)))


@contextmanager
def during(what: str) -> Iterator[None]:
    """Say where in the run an error happened."""
    try:
        yield
    except Interruption:
        raise
    except Exception as error:
        raise RuntimeError(f"{what}: {error}") from error


def fleet_of(settings: Settings, partition: data.Partition) -> Fleet | None:
    """The clients' devices, where they have any."""
    return make_fleet(settings.devices, partition.num_clients, settings.seed) if settings.devices else None


def choose_method(
    settings: Settings, layout: ModelLayout, prices: Prices, fleet: Fleet | None, partition: data.Partition
) -> Method:
    """The method of a run."""
    limits = Limits(fleet, prices, partition, settings.training) if fleet else None
    return make_method(settings.method, layout, settings.seed, prices, limits)


def deal(settings: Settings, info: data.DataInfo, examples: data.FederatedData) -> data.Partition:
    """Which rows of the training split each client holds."""
    return data.partition(
        settings.data.partition,
        examples.train.classes,
        settings.federation.num_clients,
        settings.seed,
        examples.groups,
        info.label_names,
        examples.train.examples,
    )


def lengths_of(train: data.Split) -> Lengths:
    """Mean tokens of a split's rows, where it has any."""
    lengths: Lengths = {}
    if train.mean_length > 0:
        lengths["num_tokens"] = train.mean_length
    if train.mean_target_length > 0:
        lengths["num_targets"] = train.mean_target_length
    return lengths
