"""The server, rank 0: samples, plans, aggregates, evaluates and writes the log."""

from __future__ import annotations

import time

import numpy as np

from raffm_mpi.aggregation import ExactSum, apply_official, apply_update
from raffm_mpi.elastic.labels import Selection
from raffm_mpi.elastic.packing import Packed, pack
from raffm_mpi.elastic.submodel import Shell
from raffm_mpi.evaluation import evaluate
from raffm_mpi.federation.client_group import ClientGroup
from raffm_mpi.federation.experiment import Experiment, during
from raffm_mpi.federation.plan import CLIENT_REPORT, SPLITS, Action, Plan, Round
from raffm_mpi.federation.recorder import Clock, Recorder
from raffm_mpi.federation.schedule import Schedule
from raffm_mpi.federation.transport import Transport
from raffm_mpi.metrics import WIDTHS
from raffm_mpi.seeds import generator


class Server:
    """Owns the global model; everything it tells the groups is a :class:`Plan` and an envelope of tensors."""

    def __init__(self, experiment: Experiment, transport: Transport, recorder: Recorder, sharded: bool) -> None:
        self.experiment = experiment
        self.settings = experiment.settings
        self.transport = transport
        self.recorder = recorder
        self.layout = experiment.layout
        self.shell = Shell(experiment.model, experiment.device.device)
        self.group = ClientGroup(experiment, transport) if transport.size == 1 else None
        self.schedule = Schedule(max(transport.size - 1, 1))
        parameters = {name: parameter.detach() for name, parameter in experiment.model.named_parameters()}
        self.model: Packed = pack(self.layout, parameters)
        self.sharded = sharded  # whether the groups evaluate, between rounds

    def run(self) -> None:
        """All rounds; ``model`` then holds the final global model."""
        self._reorder()
        num_rounds = self.settings.federation.num_rounds
        for number in range(num_rounds):
            with during(f"round {number}"):
                self._run_round(number)
        self._evaluate(num_rounds - 1, final=True)
        Plan(Action.STOP).broadcast(self.transport)

    def _run_round(self, number: int) -> None:
        clock, moved = Clock(), self.transport.bytes_moved
        round = self._plan(number, clock)
        envelope = self._broadcast_envelope(round.plan, round.envelope)
        clock.broadcast_s = time.perf_counter() - clock.start
        if not self.sharded and number > 0:
            self._evaluate(number - 1)  # while the groups train
        total, reports = self._collect(round, envelope, clock)
        self._commit(round, total, reports, clock, self.transport.bytes_moved - moved)
        if self.sharded and number < self.settings.federation.num_rounds - 1:
            self._evaluate(number)

    def _plan(self, number: int, clock: Clock) -> Round:
        """Sample the cohort, keyed by the round, and deal it to the groups."""
        num_clients = self.experiment.partition.num_clients
        size = max(1, round(self.settings.federation.participation * num_clients))
        cohort = generator(self.settings.seed, "cohort", number).choice(num_clients, size, replace=False)
        plan = Plan(Action.TRAIN, number, cohort.astype(np.int64), groups=np.zeros(size, np.int64))
        planned = Round.derive(plan, self.experiment)
        plan.groups[:], clock.predicted_s = self.schedule.assign(planned.flops)
        return planned

    def _broadcast_envelope(self, plan: Plan, selection: Selection) -> Packed:
        """Send a plan and the tensors that go with it."""
        plan.broadcast(self.transport)
        if selection:
            packed = pack(self.layout.restrict(selection), self.layout.take(self.model.tensors, selection))
        else:
            packed = self.model
        self.transport.broadcast(packed.buffer.numpy())
        return packed

    def _collect(self, round: Round, envelope: Packed, clock: Clock) -> tuple[ExactSum, np.ndarray]:
        """The groups' sums and reports; where the server is alone, it trains the round itself."""
        if self.group is not None:
            return self.group.train_round(round, envelope.tensors)
        total = ExactSum.zeros(round.layout, round.total_weight)
        reports = np.zeros(len(round.plan.cohort), CLIENT_REPORT)
        start, waited_s = time.perf_counter(), self.transport.waited_s
        self.transport.reduce(total.packed.buffer.numpy())
        self.transport.merge(reports)
        clock.reduce_s = time.perf_counter() - start - (self.transport.waited_s - waited_s)
        return total, reports

    def _commit(self, round: Round, total: ExactSum, reports: np.ndarray, clock: Clock, exchange_bytes: int) -> None:
        """Apply the mean update, reorder, and write the round's rows."""
        start = time.perf_counter()
        trained = [int(position) for position in np.flatnonzero(reports["trained"])]
        selections = [round.selections[position] for position in trained]
        weights = [round.weights[position] for position in trained]
        if len(trained) and self.settings.federation.paper_faithful:
            apply_official(self.model.tensors, self.layout, total, round.envelope, selections)
        elif len(trained):
            apply_update(self.model.tensors, self.layout, total, round.envelope, selections, weights)
        self._reorder()
        clock.commit_s = time.perf_counter() - start
        clock.round_s = time.perf_counter() - clock.start
        self.recorder.round(round, reports, clock, exchange_bytes)
        self._correct_schedule(round, reports)

    def _correct_schedule(self, round: Round, reports: np.ndarray) -> None:
        for group in range(self.schedule.num_groups):
            mine = round.plan.groups == group
            train_s, overhead_s = (float(reports[name][mine].sum()) for name in ("train_s", "overhead_s"))
            self.schedule.correct(group, float(round.flops[mine].sum()), train_s, int(mine.sum()), overhead_s)

    def _reorder(self) -> None:
        """Let the method put the salient entries first; the global model stays the same function."""
        order = self.experiment.method.order(self.model.tensors)
        if order:
            self.layout.check(order)
            self.model = pack(self.layout, self.layout.take(self.model.tensors, order))

    def _evaluate(self, number: int, final: bool = False) -> None:
        """Evaluate the model of a committed round where the settings want it."""
        settings, examples = self.settings.evaluation, self.experiment.examples
        if not final and (number + 1) % settings.every:
            return
        roles = [role for role in SPLITS if getattr(examples, role) is not None]
        ladder = self.experiment.method.ladder()
        all_rungs = settings.submodels == "always" or (final and settings.submodels == "last")
        for role in roles if final else roles[:1]:
            personal = final and settings.personal and role == "test"
            for rung, selection in enumerate(ladder if all_rungs else ladder[:1]):
                self._evaluate_submodel(number, role, rung, selection, personal)
        self.recorder.log.commit()

    def _evaluate_submodel(self, number: int, role: str, rung: int, selection: Selection, personal: bool) -> None:
        start = time.perf_counter()
        split, task, device = self.experiment.split(role), self.experiment.info.task, self.experiment.device
        if self.sharded:
            plan = Plan(Action.EVALUATE, number, split=SPLITS.index(role), rung=rung)
            self._broadcast_envelope(plan, selection)
            predictions = np.zeros((len(split), WIDTHS[task]))
            self.transport.merge(predictions.reshape(-1))
        else:
            tensors = self.layout.take(self.model.tensors, selection)
            model = self.shell.fill(
                self.layout.restrict(selection), {n: t.contiguous().to(device.device) for n, t in tensors.items()}
            )
            predictions = evaluate(model, split, task, device, self.settings.evaluation.batch_size)
        self.recorder.evaluation(number, selection, role, predictions, time.perf_counter() - start)
        if personal:
            self.recorder.client_scores(number, selection, predictions)
