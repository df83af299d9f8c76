"""A client group: one rank that trains, one after another, the clients a round gives it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from raffm_mpi.aggregation import ExactSum, flaw
from raffm_mpi.elastic.labels import Tensors, within
from raffm_mpi.elastic.packing import allocate
from raffm_mpi.elastic.submodel import Shell
from raffm_mpi.evaluation import evaluate
from raffm_mpi.federation.experiment import Experiment, during
from raffm_mpi.federation.plan import CLIENT_REPORT, SPLITS, Action, Plan, Round
from raffm_mpi.federation.transport import Transport
from raffm_mpi.training import TrainingResult, train


class ClientGroup:
    """Trains clients on one elastic model; group g is rank g + 1, or rank 0 where it is alone."""

    def __init__(self, experiment: Experiment, transport: Transport) -> None:
        self.experiment = experiment
        self.transport = transport
        self.number = max(transport.rank - 1, 0)
        self.device = experiment.device
        self.shell = Shell(experiment.model, self.device.device)

    def serve(self) -> None:
        """Do what rank 0 plans until it says stop."""
        while (plan := Plan.receive(self.transport)).action != Action.STOP:
            with during(f"round {plan.round}"):
                if plan.action == Action.TRAIN:
                    self._serve_round(plan)
                else:
                    self._serve_evaluation(plan)

    def _serve_round(self, plan: Plan) -> None:
        round = Round.derive(plan, self.experiment)
        envelope = allocate(round.layout)
        self.transport.broadcast(envelope.buffer.numpy())
        total, reports = self.train_round(round, envelope.tensors)
        self.transport.reduce(total.packed.buffer.numpy())
        self.transport.merge(reports)

    def _serve_evaluation(self, plan: Plan) -> None:
        selection = self.experiment.method.ladder()[plan.rung]
        layout = self.experiment.layout.restrict(selection)
        packed = allocate(layout)
        self.transport.broadcast(packed.buffer.numpy())
        model = self.shell.fill(layout, self._to_device(packed.tensors))
        split, task = self.experiment.split(SPLITS[plan.split]), self.experiment.info.task
        batch_size = self.experiment.settings.evaluation.batch_size
        mine = range(self.number, -(-len(split) // batch_size), self.transport.size - 1)
        self.transport.merge(evaluate(model, split, task, self.device, batch_size, mine).reshape(-1))

    def train_round(self, round: Round, envelope: Tensors) -> tuple[ExactSum, np.ndarray]:
        """Train this group's clients on the envelope's tensors: the sum of their updates, and a report of each."""
        received = self._to_device(envelope)
        total = ExactSum.zeros(round.layout, round.total_weight, self.device.device)
        reports = np.zeros(len(round.plan.cohort), CLIENT_REPORT)
        for position in self._my_clients(round):
            start = time.perf_counter()
            client = int(round.plan.cohort[position])
            with during(f"client {client}"):
                result, problem = self._train_client(round, position, client, received, total)
            reports[position] = (
                problem is None,
                result.num_steps,
                result.first_loss,
                result.last_loss,
                result.mean_loss,
                result.train_s,
                time.perf_counter() - start - result.train_s,
                (problem or "").encode()[: CLIENT_REPORT["flaw"].itemsize],
            )
        return total.on_host(), reports

    def _train_client(
        self, round: Round, position: int, client: int, received: Tensors, total: ExactSum
    ) -> tuple[TrainingResult, str | None]:
        """Slice, train, add the weighted update to the sum; a flawed update is left out, with the reason."""
        experiment = self.experiment
        selection = within(round.envelope, round.selections[position])
        slices = round.layout.take(received, selection)
        trained = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in slices.items()}
        model = self.shell.fill(round.layout.restrict(selection), trained)
        result = train(
            model,
            experiment.examples.train,
            experiment.partition.client(client),
            experiment.settings.training,
            self.device,
            seed=experiment.settings.seed,
            round=round.plan.round,
            client=client,
        )
        update = {name: tensor.sub_(slices[name]) for name, tensor in trained.items()}
        problem = flaw(update)
        if problem is None:
            total.add(selection, update, round.weights[position])
        return result, problem

    def _my_clients(self, round: Round) -> Iterator[int]:
        return (int(position) for position in np.flatnonzero(round.plan.groups == self.number))

    def _to_device(self, tensors: Tensors) -> Tensors:
        return {name: tensor.to(self.device.device) for name, tensor in tensors.items()}
