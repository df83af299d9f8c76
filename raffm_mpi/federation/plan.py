"""What rank 0 tells the others to do next, and what every rank derives from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np

from raffm_mpi.config import Settings
from raffm_mpi.devices import VirtualRound, Work
from raffm_mpi.elastic.labels import Selection, union
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.federation.experiment import Outline
from raffm_mpi.seeds import generator

NOBODY = -1  # the group of a client that is not to be trained
_HEADER_WORDS = 8


class Action(IntEnum):
    """The next common step of all ranks."""

    STOP = 0
    TRAIN = 1
    EVALUATE = 2


@dataclass(frozen=True)
class Plan:
    """One step: the cohort and the group of each of its clients (for TRAIN), or which evaluation (for EVALUATE).

    All that travels is this: selections, shapes, weights and seeds follow from it on every rank. ``away`` are the
    positions of clients that give no update, as the virtual clock says. A round takes several plans where ranks die:
    ``deal`` counts those whose sums have arrived, so that a group keeps what it trained since until it has handed it
    over.
    """

    action: Action
    round: int = 0
    cohort: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    groups: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # NOBODY: is not to be trained
    attempt: int = 0  # how often the round was repeated with another cohort
    deal: int = 0
    split: int = 0  # of SPLITS
    rung: int = 0  # of the method's ladder
    away: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

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
        return 8 * (_HEADER_WORDS + 2 * len(self.cohort) + len(self.away))

    def broadcast(self, ranks: Ranks) -> None:
        """Send the plan from rank 0 (the other side is :meth:`receive`)."""
        counts = [len(self.cohort), len(self.away)]
        header = [self.action, self.round, *counts, self.attempt, self.deal, self.split, self.rung]
        assert len(header) == _HEADER_WORDS
        ranks.broadcast(np.array(header, np.int64))
        if len(self.cohort):
            ranks.broadcast(np.stack([self.cohort, self.groups]))
        if len(self.away):
            ranks.broadcast(self.away)

    @classmethod
    def receive(cls, ranks: Ranks) -> Plan:
        """Receive the plan that rank 0 sends with :meth:`broadcast`."""
        header = np.zeros(_HEADER_WORDS, np.int64)
        ranks.broadcast(header)
        action, number, num_clients, num_away, attempt, deal, split, rung = (int(value) for value in header)
        rows = np.zeros((2, num_clients), np.int64)
        if num_clients:
            ranks.broadcast(rows)
        away = np.zeros(num_away, np.int64)
        if num_away:
            ranks.broadcast(away)
        return cls(Action(action), number, rows[0], rows[1], attempt, deal, split, rung, away)


def num_wanted(settings: Settings, num_clients: int) -> int:
    """The clients whose updates a round needs."""
    return max(1, round(settings.federation.participation * num_clients))


def cohort(
    settings: Settings, num_clients: int, round_number: int, attempt: int = 0, reachable: np.ndarray | None = None
) -> np.ndarray:
    """The clients that a round asks, drawn without replacement and keyed by how often it was repeated: int64.

    They are drawn from the ``reachable`` ones (ascending; all if left out), or are all of these if there are too few.
    """
    size = num_wanted(settings, num_clients)
    if settings.devices:
        size = min(num_clients, math.ceil(size * (1 + settings.devices.over_selection)))
    reachable = np.arange(num_clients) if reachable is None else reachable
    key = (round_number, attempt) if attempt else (round_number,)
    drawn = generator(settings.seed, "cohort", *key).choice(len(reachable), min(size, len(reachable)), replace=False)
    return reachable[drawn].astype(np.int64)


@dataclass(frozen=True)
class Round:
    """A training plan with everything that follows from it: what each client holds, and their envelope.

    Clients that are away have a selection, but no weight and no part in the envelope. The server alone has ``virtual``.
    """

    plan: Plan
    selections: Sequence[Selection]
    weights: Sequence[int]  # of each client, as the aggregator has it
    envelope: Selection
    layout: ModelLayout  # of what is sent: the envelope's
    sums: ModelLayout  # of what is summed, within the envelope
    experiment: Outline
    virtual: VirtualRound | None = None  # where clients have devices

    @classmethod
    def derive(cls, plan: Plan, experiment: Outline) -> Round:
        """The same on every rank."""
        cohort = [int(client) for client in plan.cohort]
        aggregator, is_away = experiment.aggregator, np.isin(np.arange(len(cohort)), plan.away)
        selections = experiment.selections(plan.round, cohort)
        weights = [aggregator.weight(len(experiment.partition.client(client))) for client in cohort]
        weights = [0 if away else weight for weight, away in zip(weights, is_away, strict=True)]
        envelope = union(experiment.layout, [s for s, away in zip(selections, is_away, strict=True) if not away])
        layout, sums = aggregator.sent.restrict(envelope), aggregator.summed.restrict(envelope)
        return cls(plan, selections, weights, envelope, layout, sums, experiment)

    @property
    def end_s(self) -> float:
        """When the round is over, in virtual seconds from the run's start; 0 without devices."""
        return self.virtual.start_s + self.virtual.seconds if self.virtual else 0.0

    @property
    def work(self) -> Work:
        """What each client of the cohort would do on its device."""
        bytes_down, bytes_up = self.experiment.traffic(self.selections)
        pairs = zip(self.plan.cohort, self.selections, strict=True)
        able = np.array([self.experiment.can_train(int(client), selection) for client, selection in pairs])
        return Work(bytes_down, self.flops, bytes_up, able)

    @cached_property
    def total_weight(self) -> int:
        """A bound on the weight of the whole cohort, which fixes the grid of the exact sum."""
        return max(1, self.experiment.aggregator.total_weight([weight for weight in self.weights if weight]))

    @cached_property
    def flops(self) -> np.ndarray:
        """FLOPs of each client's local training: float64 ``[cohort]``."""
        number, flops = self.plan.round, self.experiment.client_flops
        pairs = zip(self.plan.cohort, self.selections, strict=True)
        return np.array([flops(number, int(client), selection) for client, selection in pairs])


SPLITS = ("validation", "test")
