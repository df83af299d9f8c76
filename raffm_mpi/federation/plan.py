"""What rank 0 tells the others to do next, and what every rank derives from it."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np

from raffm_mpi.config import Settings
from raffm_mpi.elastic.labels import Selection, union
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.federation.experiment import Outline
from raffm_mpi.federation.transport import Transport
from raffm_mpi.seeds import generator

NOBODY = -1  # the group of a client that is not to be trained
_HEADER_WORDS = 7


class Action(IntEnum):
    """The next common step of all ranks."""

    STOP = 0
    TRAIN = 1
    EVALUATE = 2


@dataclass(frozen=True)
class Plan:
    """One step: the cohort and the group of each of its clients (for TRAIN), or which evaluation (for EVALUATE).

    All that travels is this: selections, shapes, weights and seeds follow from it on every rank. A round takes several
    plans where ranks die: ``deal`` counts those whose sums have arrived, so that a group keeps what it trained since
    until it has handed it over.
    """

    action: Action
    round: int = 0
    cohort: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    groups: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # NOBODY: is not to be trained
    attempt: int = 0  # how often the round was repeated with another cohort
    deal: int = 0
    split: int = 0  # of SPLITS
    rung: int = 0  # of the method's ladder

    @property
    def key(self) -> tuple[int, int, int]:
        """What a group's sums belong to."""
        return self.round, self.attempt, self.deal

    @property
    def trains(self) -> bool:
        """Whether anybody is to train: else the groups hand over what they have."""
        return bool((self.groups != NOBODY).any())

    @property
    def num_bytes(self) -> int:
        """What :meth:`broadcast` sends."""
        return 8 * (_HEADER_WORDS + 2 * len(self.cohort))

    def broadcast(self, transport: Transport) -> None:
        """Send the plan from rank 0 (the other side is :meth:`receive`)."""
        header = [self.action, self.round, len(self.cohort), self.attempt, self.deal, self.split, self.rung]
        assert len(header) == _HEADER_WORDS
        transport.broadcast(np.array(header, np.int64))
        if len(self.cohort):
            transport.broadcast(np.stack([self.cohort, self.groups]))

    @classmethod
    def receive(cls, transport: Transport) -> Plan:
        """Receive the plan that rank 0 sends with :meth:`broadcast`."""
        header = np.zeros(_HEADER_WORDS, np.int64)
        transport.broadcast(header)
        action, round, num_clients, attempt, deal, split, rung = (int(value) for value in header)
        rows = np.zeros((2, num_clients), np.int64)
        if num_clients:
            transport.broadcast(rows)
        return cls(Action(action), round, rows[0], rows[1], attempt, deal, split, rung)


def cohort(settings: Settings, num_clients: int, round: int, attempt: int = 0) -> np.ndarray:
    """The clients of a round, drawn without replacement and keyed by how often it was repeated: int64."""
    size = max(1, builtins.round(settings.federation.participation * num_clients))
    key = (round, attempt) if attempt else (round,)
    drawn = generator(settings.seed, "cohort", *key).choice(num_clients, size, replace=False)
    return drawn.astype(np.int64)


@dataclass(frozen=True)
class Round:
    """A training plan with everything that follows from it: what each client holds, and their envelope."""

    plan: Plan
    selections: Sequence[Selection]
    weights: Sequence[int]  # of each client, as the aggregator has it
    envelope: Selection
    layout: ModelLayout  # of what is sent: the envelope's
    sums: ModelLayout  # of what is summed, within the envelope
    experiment: Outline

    @classmethod
    def derive(cls, plan: Plan, experiment: Outline) -> Round:
        """The same on every rank."""
        cohort = [int(client) for client in plan.cohort]
        aggregator = experiment.aggregator
        selections = experiment.selections(plan.round, cohort)
        weights = [aggregator.weight(len(experiment.partition.client(client))) for client in cohort]
        envelope = union(experiment.layout, selections)
        layout, sums = aggregator.sent.restrict(envelope), aggregator.summed.restrict(envelope)
        return cls(plan, selections, weights, envelope, layout, sums, experiment)

    @cached_property
    def total_weight(self) -> int:
        """A bound on the weight of the whole cohort, which fixes the grid of the exact sum."""
        return self.experiment.aggregator.total_weight(self.weights)

    @cached_property
    def flops(self) -> np.ndarray:
        """FLOPs of each client's local training: float64 ``[cohort]``."""
        number, flops = self.plan.round, self.experiment.client_flops
        pairs = zip(self.plan.cohort, self.selections, strict=True)
        return np.array([flops(number, int(client), selection) for client, selection in pairs])


SPLITS = ("validation", "test")
