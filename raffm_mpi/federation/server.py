"""The server, rank 0: samples, plans, aggregates, evaluates and writes the log."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from raffm_mpi.aggregation import Gathered
from raffm_mpi.aggregation.server_optimizer import make_server_optimizer
from raffm_mpi.devices import simulate
from raffm_mpi.elastic.labels import Selection
from raffm_mpi.elastic.packing import Packed, pack
from raffm_mpi.exchange.interruptions import RanksFailed, Stopped, TooFewClients
from raffm_mpi.exchange.presence import Phase
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.federation.client_group import ClientGroup
from raffm_mpi.federation.experiment import Experiment, during
from raffm_mpi.federation.plan import NOBODY, SPLITS, Action, Plan, Round, cohort, num_wanted
from raffm_mpi.federation.recorder import Clock, Failure, Recorder
from raffm_mpi.federation.schedule import Schedule
from raffm_mpi.federation.server_update import reorder, server_update
from raffm_mpi.federation.state import RunState
from raffm_mpi.federation.tally import Tally
from raffm_mpi.learning.evaluation import blank, evaluate


class Server:
    """Owns what travels of the global model; all it tells the groups is a :class:`Plan` and an envelope of tensors."""

    def __init__(
        self, experiment: Experiment, ranks: Ranks, recorder: Recorder, state: RunState, sharded: bool
    ) -> None:
        self.experiment = experiment
        self.settings = experiment.settings
        self.ranks = ranks
        self.presence = ranks.presence
        self.recorder = recorder
        self.state = state
        self.layout = experiment.aggregator.sent
        self.group: ClientGroup | None = None  # where the server is alone
        self.schedule = Schedule(len(ranks.hosts))
        self.prefers_sharded = sharded  # whether the groups evaluate, between rounds
        parameters = {name: parameter.detach() for name, parameter in experiment.model.named_parameters()}
        own = {name: parameters[name] for name in self.layout.labels}
        self.model: Packed = pack(self.layout, state.start.tensors or own)
        self.optimizer = make_server_optimizer(self.settings.server, self.layout)
        if state.start.checkpoint:
            self.optimizer.restore(state.start.optimizer)
        self.virtual_s = state.start.virtual_s  # the virtual clock, after the last committed round
        self.schedule.restore(state.start.schedule)

    @property
    def sharded(self) -> bool:
        """Whether the groups evaluate; where none is left, the server does."""
        return self.prefers_sharded and self.ranks.size > 1

    def run(self) -> None:
        """All rounds that are left; ``model`` then holds the final global model.

        Raises Stopped, TooFewClients and DiskFailed, with the last committed round saved.
        """
        first, num_rounds = self.state.start.next_round, self.settings.federation.num_rounds
        if first == 0:
            self.model = reorder(self.experiment, self.model, self.optimizer)
        elif self.sharded and first < num_rounds:
            self._evaluate(first - 1)
        for number in range(first, num_rounds):
            with during(f"round {number}"):
                self._run_round(number)
                if self.sharded and number < num_rounds - 1:
                    self._evaluate(number)
        self._save(num_rounds - 1)
        self._evaluate(num_rounds - 1, final=True)
        if self.recorder.evaluated_round < num_rounds - 1:
            self._stop_if_asked(num_rounds)

    def _run_round(self, number: int) -> None:
        self._stop_if_asked(number)
        clock, moved = Clock(), self.ranks.bytes_moved
        now_s = self.virtual_s
        for attempt in range(self.settings.federation.max_repeats + 1):
            current = self._sample(number, attempt, now_s)
            now_s = current.end_s
            tally = self._train(current, clock)
            if len(tally.trained) >= self.settings.federation.min_trained:
                break
            self.recorder.repeat(current, tally, self.settings.federation.min_trained)
        else:
            self._save(number - 1)
            raise TooFewClients(
                f"round {number}: {len(tally.trained)} of {len(tally.reports)} clients gave an update, allowed are "
                f"{self.settings.federation.min_trained} (federation.min_trained) or more; the last was dropped "
                f"because {self.recorder.last_problem}"
            )
        self._commit(current, tally, clock, self.ranks.bytes_moved - moved)

    def _sample(self, number: int, attempt: int, now_s: float) -> Round:
        """The round's cohort, keyed by the round and how often it was repeated, and what becomes of its clients.

        ``now_s`` is virtual, as are all seconds here; where nobody can be reached the round begins when somebody can.
        """
        num_clients, fleet = self.experiment.partition.num_clients, self.experiment.fleet
        reachable = None
        if fleet:
            now_s = fleet.availability.next_s(now_s)
            reachable = np.flatnonzero(fleet.availability.until(now_s) > now_s)
        drawn = cohort(self.settings, num_clients, number, attempt, reachable)
        plan = Plan(Action.TRAIN, number, drawn, np.full(len(drawn), NOBODY), attempt)
        current = Round.derive(plan, self.experiment)
        if not fleet:
            return current
        wanted = num_wanted(self.settings, num_clients)
        virtual = simulate(fleet, drawn, current.work, wanted, now_s, number, attempt)
        current = Round.derive(replace(plan, away=virtual.away), self.experiment)
        return replace(current, virtual=virtual)

    def _train(self, current: Round, clock: Clock) -> Tally:
        """Have the whole cohort trained, by whoever is alive."""
        number = current.plan.round
        tally = self.state.resumed_tally(current) or Tally.begin(current)
        failure: Failure | None = None
        while len(tally.open):
            try:
                self._deal(current, tally, clock, hand_over_only=failure is not None)
            except RanksFailed:
                failure = self._recover(failure or Failure(current.plan.groups.copy()))
                clock.num_recoveries += 1
                continue
            if failure is not None:
                self.recorder.recovery(number, failure, tally.open)
                failure = None
            if self.presence.stopping and len(tally.open):
                self._save(number - 1)
                self.state.save_partial(current, tally)
                self._stop_if_asked(number, f" and {len(tally.reports) - len(tally.open)} clients of the next one")
            current = replace(current, plan=replace(current.plan, deal=current.plan.deal + 1))
        self._aside(number)
        return tally

    def _deal(self, current: Round, tally: Tally, clock: Clock, hand_over_only: bool) -> None:
        """Deal the open clients to the living groups, or none, and add what the groups hand over to the tally."""
        groups = [rank - 1 for rank in self.ranks.members[1:]] or [len(self.ranks.hosts) - 1]
        current.plan.groups[:] = NOBODY
        if not hand_over_only:
            assigned, clock.predicted_s = self.schedule.assign(current.flops[tally.open], groups)
            current.plan.groups[tally.open] = assigned
        clock.groups = groups
        start = time.perf_counter()
        envelope = self._broadcast_envelope(current.plan, current.envelope)
        clock.broadcast_s += time.perf_counter() - start
        if not hand_over_only:
            self._aside(current.plan.round)  # while the groups train
        tally.add(self._collect(current, envelope, clock))

    def _aside(self, number: int) -> None:
        """What rank 0 does while the groups train: save the round before, and evaluate it."""
        if self.state.is_due(number - 1):
            self._save(number - 1)
        if not self.sharded and self.recorder.evaluated_round < number - 1:
            self._evaluate(number - 1)

    def _broadcast_envelope(self, plan: Plan, selection: Selection) -> Packed:
        """Send a plan and the tensors that go with it, if any."""
        plan.broadcast(self.ranks)
        if selection:
            packed = pack(self.layout.restrict(selection), self.layout.take(self.model.tensors, selection))
        else:
            packed = self.model
        if plan.action == Action.EVALUATE or plan.trains:
            self.ranks.broadcast(packed.buffer)
        return packed

    def _collect(self, current: Round, envelope: Packed, clock: Clock) -> Tally:
        """What the groups hand over; where the server is alone, it trains itself."""
        if self.ranks.size == 1:
            self.group = self.group or ClientGroup(self.experiment, self.ranks)
            self.group.kept = None
            own = self.group.train_round(current, envelope)
            return replace(own, total=own.total.on_host())
        received = Tally.empty(current)
        self.presence.doing(Phase.WAITING, current.plan.round)
        start, waited_s = time.perf_counter(), self.ranks.waited_s
        self.ranks.reduce(received.total.packed.buffer)
        self.ranks.merge(received.reports)
        clock.reduce_s += time.perf_counter() - start - (self.ranks.waited_s - waited_s)
        return received

    def _commit(self, current: Round, tally: Tally, clock: Clock, exchange_bytes: int) -> None:
        """Aggregate, reorder, and write the round's rows."""
        self.presence.doing(Phase.COMMITTING, current.plan.round)
        start = time.perf_counter()
        gathered = Gathered(
            current.plan.round,
            current.envelope,
            [current.selections[position] for position in tally.trained],
            [current.weights[position] for position in tally.trained],
            [int(weight) for weight in tally.reports["weight"][tally.trained]],
        )
        self.model = server_update(self.experiment, self.model, tally.total, gathered, self.optimizer)
        clock.commit_s = time.perf_counter() - start
        clock.round_s = time.perf_counter() - clock.start
        self.recorder.round(current, tally.reports, clock, exchange_bytes)
        self.virtual_s = current.end_s
        self.state.committed()
        self._correct_schedule(current, tally.reports)

    def _correct_schedule(self, current: Round, reports: np.ndarray) -> None:
        for group in range(self.schedule.num_groups):
            mine = reports["group"] == group
            train_s, overhead_s = (float(reports[name][mine].sum()) for name in ("train_s", "overhead_s"))
            self.schedule.correct(group, float(current.flops[mine].sum()), train_s, int(mine.sum()), overhead_s)

    def _save(self, number: int) -> None:
        """Write the checkpoint after a round, unless it is there or there is nothing to save yet."""
        if self.state.saved_round < number:
            self.presence.doing(Phase.SAVING, number)
            model, optimizer = self.model.tensors, self.optimizer.state()
            saved = self.state.save(number, model, optimizer, self.schedule.state(), self.virtual_s)
            self.recorder.checkpoint(*saved)

    def _stop_if_asked(self, num_done: int, and_more: str = "") -> None:
        """At a boundary: raise Stopped where the run shall stop, with what is committed saved."""
        if self.presence.stopping:
            self._save(num_done - 1)
            done = f"{num_done} of {self.settings.federation.num_rounds} rounds{and_more}"
            raise Stopped(f"{self.presence.stopping}: stopped after {done}")

    def _recover(self, failure: Failure) -> Failure:
        """Go on without the ranks that died, beside those of an earlier failure that nothing was done after."""
        return replace(failure, ranks=(*failure.ranks, *self.ranks.recover()))

    def _until_done(self, step: Callable[[], Any], number: int) -> Any:
        """Take a step that needs every rank, again after each failure."""
        while True:
            try:
                return step()
            except RanksFailed:
                self.recorder.recovery(number, self._recover(Failure()), np.zeros(0, np.int64))

    def _evaluate(self, number: int, final: bool = False) -> None:
        """Evaluate the model of a committed round where the settings want it; a run that shall stop leaves it."""
        settings, examples = self.settings.evaluation, self.experiment.examples
        if not final and (number + 1) % settings.every:
            return
        roles = [role for role in SPLITS if getattr(examples, role) is not None]
        ladder = self.experiment.ladder()
        all_rungs = settings.submodels == "always" or (final and settings.submodels == "last")
        rows = []
        for role in roles if final else roles[:1]:
            personal = final and settings.personal and role == "test"
            for rung, selection in enumerate(ladder if all_rungs else ladder[:1]):
                start = time.perf_counter()
                predictions = self._until_done(partial(self._predict, number, role, rung, selection), number)
                if self.presence.stopping:
                    return
                rows.append((selection, role, predictions, time.perf_counter() - start, personal))
        for selection, role, predictions, seconds, personal in rows:
            self.recorder.evaluation(number, selection, role, predictions, seconds)
            if personal:
                self.recorder.client_scores(number, selection, predictions)
        self.recorder.commit()

    def _predict(self, number: int, role: str, rung: int, selection: Selection) -> np.ndarray:
        """The predictions of a sub-model on a split, by the groups or by the server itself."""
        split, info, processor = self.experiment.split(role), self.experiment.info, self.experiment.processor
        self.presence.doing(Phase.EVALUATING, number)
        if self.sharded:
            plan = Plan(Action.EVALUATE, number, split=SPLITS.index(role), rung=rung)
            self._broadcast_envelope(plan, selection)
            predictions = blank(info, split)
            self.ranks.merge(predictions.reshape(-1))
            return predictions
        model = self.experiment.elastic.fill(selection, self.layout.take(self.model.tensors, selection))
        size = self.settings.evaluation.batch_size
        batches = itertools.takewhile(lambda _: not self.presence.stopping, range(-(-len(split) // size)))
        return evaluate(model, split, info, processor, size, batches, self.presence.step)


def dismiss(ranks: Ranks) -> None:
    """Tell every group to stop, and let it go; the run's results are safe."""
    while True:
        try:
            Plan(Action.STOP).broadcast(ranks)
        except RanksFailed:
            ranks.recover()
        else:
            ranks.dismiss()
            return
