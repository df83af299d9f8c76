"""A client group: one rank that trains, one after another, the clients a round gives it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raffm_mpi.aggregation.exact import flaw
from raffm_mpi.elastic.labels import DENSE, DENSITY, Selection, Tensors, is_kept, within
from raffm_mpi.elastic.packing import Packed, allocate, moved
from raffm_mpi.elastic.submodel import Shell
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.exchange.interruptions import Dismissed, RanksFailed
from raffm_mpi.exchange.presence import Phase
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.federation.experiment import Experiment, during
from raffm_mpi.federation.plan import SPLITS, Action, Plan, Round
from raffm_mpi.federation.tally import CLIENT_REPORT, Tally
from raffm_mpi.learning.evaluation import evaluate
from raffm_mpi.learning.objective import NestedObjective, Objective
from raffm_mpi.learning.training import TrainingFault, TrainingResult, is_out_of_memory, train
from raffm_mpi.seeds import generator

_NOTHING = TrainingResult(0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Fault:
    """Why a client gave no update; a client that ran out of memory is trained again in smaller parts."""

    message: str
    is_out_of_memory: bool = False


class ClientGroup:
    """Trains clients on one elastic model; group g is rank g + 1, and the last is the server where it is alone."""

    def __init__(self, experiment: Experiment, ranks: Ranks) -> None:
        self.experiment = experiment
        self.ranks = ranks
        self.presence = ranks.presence
        self.number = (ranks.rank - 1) % len(ranks.hosts)
        self.processor = experiment.processor
        self.elastic = experiment.elastic
        self.inner_shell: Shell | None = None  # for sub-models within a client's
        self.kept: Tally | None = None  # trained since the sums were last handed over

    def serve(self) -> None:
        """Do what rank 0 plans until it says stop; go on without ranks that die."""
        while True:
            try:
                self._serve_step()
            except RanksFailed:
                self.ranks.recover()
            except Dismissed:
                return

    def _serve_step(self) -> None:
        self.presence.doing(Phase.WAITING)
        plan = Plan.receive(self.ranks)
        with during(f"round {plan.round}"):
            if plan.action == Action.TRAIN:
                self._serve_round(plan)
            elif plan.action == Action.EVALUATE:
                self._serve_evaluation(plan)
            else:
                self.ranks.await_dismissal()

    def _serve_round(self, plan: Plan) -> None:
        if self.kept is not None and self.kept.key != plan.key:
            self.kept = None
        current = Round.derive(plan, self.experiment)
        envelope = self._receiving(current.layout)
        if plan.trains:
            self.ranks.broadcast(envelope.buffer)
        tally = self.train_round(current, envelope)
        self.presence.doing(Phase.WAITING)
        self.processor.finish()
        total = tally.total if self._hands_over_gpu_memory else tally.total.on_host()
        self.ranks.reduce(total.packed.buffer)
        self.ranks.merge(tally.reports)

    def _serve_evaluation(self, plan: Plan) -> None:
        self.presence.doing(Phase.EVALUATING, plan.round)
        selection = self.experiment.ladder()[plan.rung]
        layout = self.experiment.aggregator.sent.restrict(selection)
        packed = self._receiving(layout)
        self.ranks.broadcast(packed.buffer)
        model = self.elastic.fill(selection, moved(layout, packed, self.processor.device).tensors)
        split, info = self.experiment.split(SPLITS[plan.split]), self.experiment.info
        batch_size = self.experiment.settings.evaluation.batch_size
        shard, num_shards = self.ranks.members.index(self.ranks.rank) - 1, self.ranks.size - 1
        mine = range(shard, -(-len(split) // batch_size), num_shards)
        predictions = evaluate(model, split, info, self.processor, batch_size, mine, self.presence.step)
        self.ranks.merge(predictions.reshape(-1))

    def train_round(self, current: Round, envelope: Packed) -> Tally:
        """Train this group's clients on the envelope's tensors; returns all it has trained since it handed sums over.

        Ends early, between two clients, where the run shall stop. Raises RanksFailed there where ranks have died.
        """
        received = moved(current.layout, envelope, self.processor.device).tensors
        if self.kept is None:
            self.kept = Tally.empty(current, self.processor.device)
        for position in np.flatnonzero(current.plan.groups == self.number):
            client = int(current.plan.cohort[position])
            self.presence.doing(Phase.TRAINING, current.plan.round, client)
            self.presence.pulse()
            if self.ranks.have_failed:
                raise RanksFailed
            if self.presence.stopping:
                break
            with during(f"client {client}"):
                self.kept.reports[position] = self._serve_client(current, int(position), client, received, self.kept)
        return self.kept

    def _serve_client(
        self, current: Round, position: int, client: int, received: Tensors, tally: Tally
    ) -> tuple[int | float | bytes, ...]:
        """Train a client, in smaller parts if its batches do not fit into memory; returns its row of the reports."""
        start = time.perf_counter()
        problem, micro_batches = "", 1
        result, weight, fault = self._train_client(current, position, client, received, tally, micro_batches)
        if fault and fault.is_out_of_memory:
            problem, micro_batches = f"{fault.message}; trained again with half batches", 2
            result, weight, fault = self._train_client(current, position, client, received, tally, micro_batches)
        overhead_s = time.perf_counter() - start - result.train_s
        losses = (result.first_loss, result.last_loss, result.mean_loss)
        told = (fault.message if fault else problem).encode()[: CLIENT_REPORT["problem"].itemsize]
        done = (1, not fault, weight, self.number, result.num_steps, micro_batches)
        return *done, *losses, result.train_s, overhead_s, told

    def _train_client(
        self, current: Round, position: int, client: int, received: Tensors, tally: Tally, micro_batches: int
    ) -> tuple[TrainingResult, int, _Fault | None]:
        """Slice, train, add the weighted contribution to the sum; returns the weight and what went wrong.

        What went wrong leaves no trace in the sum.
        """
        experiment, aggregator = self.experiment, self.experiment.aggregator
        selection = within(current.envelope, current.selections[position])
        try:
            slices, trained = sliced(current.layout, received, selection)
            model = self.elastic.fill(current.selections[position], {**slices, **trained})
            result = train(
                model,
                experiment.examples.train,
                experiment.partition.client(client),
                experiment.settings.training,
                self.processor,
                seed=experiment.settings.seed,
                round_number=current.plan.round,
                client=client,
                objective=self._objective(current, position, slices),
                micro_batches=micro_batches,
                after_step=self.presence.step,
            )
            contribution = aggregator.contribution(slices, trained)
        except TrainingFault as fault:
            return _NOTHING, 0, _Fault(str(fault))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.processor.empty_cache()
            return _NOTHING, 0, _Fault("its sub-model ran out of memory", is_out_of_memory=True)
        problem = flaw(contribution)
        if problem is not None:
            return result, 0, _Fault(problem)
        return result, aggregator.add(tally.total, selection, contribution, current.weights[position]), None

    def _objective(self, current: Round, position: int, received: Tensors) -> Objective:
        """What a client minimises: its method's and the settings' share in it."""
        experiment, selection = self.experiment, current.selections[position]
        number, client = current.plan.round, int(current.plan.cohort[position])
        layout = experiment.layout.restrict(selection)
        density = layout.size(DENSITY)
        options: dict[str, Any] = {
            "received": received,
            "kept": {} if density == DENSE else {name: is_kept(t, density) for name, t in received.items()},
            "proximal": experiment.settings.training.proximal,
        }
        nested = experiment.method.nested(number, client, selection)
        if nested is None:
            return Objective(**options)
        self.inner_shell = self.inner_shell or Shell(experiment.model, self.processor.device)
        draws = generator(experiment.settings.seed, "nested", number, client)
        return NestedObjective(nested, self.inner_shell, layout, selection, draws, **options)

    @property
    def _hands_over_gpu_memory(self) -> bool:
        return self.experiment.settings.compute.gpu_aware_mpi

    def _receiving(self, layout: ModelLayout) -> Packed:
        """Memory for what the server sends."""
        if self._hands_over_gpu_memory:
            return allocate(layout, device=self.processor.device)
        return allocate(layout, pinned=self.processor.is_gpu)


def sliced(layout: ModelLayout, received: Tensors, selection: Selection) -> tuple[Tensors, Tensors]:
    """What a client holds of the envelope's tensors, and contiguous copies of what it trains of that."""
    slices = layout.take(received, selection)
    trained = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in slices.items()
        if name not in layout.frozen
    }
    return slices, trained
