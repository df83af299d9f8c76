"""What rank 0 records of a run: the rows of the log, and what the displays show."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

import numpy as np

from raffm_mpi.devices import VirtualRound
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.federation.experiment import Experiment
from raffm_mpi.federation.plan import NOBODY, Round
from raffm_mpi.federation.tally import CLIENT_REPORT, Tally
from raffm_mpi.learning.evaluation import score_clients, score_split
from raffm_mpi.learning.training import learning_rate
from raffm_mpi.log import LOWER_IS_BETTER, NO_DEVICE, RunLog
from raffm_mpi.messages import say
from raffm_mpi.recovery.checkpoint import Checkpoint
from raffm_mpi.recovery.disk import Disk

_NOT_LOGGED = ("done", "trained", "weight", "problem")  # fields of a report that the clients table does not have
# Why a client's device gave no update; each continues "client 3 is …".
_FATES = {
    "unable": "unable to hold its sub-model, or to have it ready in time",
    "gone": "gone before it was ready",
    "late": "late at the deadline",
    "surplus": "one too many",
}


class Display(Protocol):
    """Something that shows a person how the run goes on."""

    def round_done(self, row: Mapping[str, Any]) -> None:
        """A round was committed; ``row`` is its row of the rounds table."""

    def evaluated(self, row: Mapping[str, Any], is_full: bool) -> None:
        """A model was evaluated; ``row`` is its row of the evaluation table, with its ``metrics`` and the main one."""

    def close(self) -> None:
        """The run is over."""


@dataclass
class Clock:
    """Seconds of a round's phases, and what the schedule predicted of each group."""

    start: float = field(default_factory=time.perf_counter)
    broadcast_s: float = 0.0
    reduce_s: float = 0.0
    commit_s: float = 0.0
    round_s: float = 0.0
    predicted_s: np.ndarray = field(default_factory=lambda: np.zeros(1))  # [num_groups]
    groups: Sequence[int] = ()  # those alive when the round ended
    num_recoveries: int = 0


@dataclass(frozen=True)
class Failure:
    """Ranks that died, and which group had which client when the first of them was found dead."""

    dealt: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # [cohort], the group of each client
    ranks: tuple[int, ...] = ()
    start: float = field(default_factory=time.perf_counter)


class Recorder:
    """Writes a row of the log for each round, client, group and evaluation; a round's rows are committed together."""

    def __init__(
        self,
        experiment: Experiment,
        log: RunLog,
        displays: Sequence[Display],
        disk: Disk,
        hosts: Sequence[str],
        next_round: int,
    ) -> None:
        self.experiment = experiment
        self.log = log
        self.displays = displays
        self.disk = disk
        self.hosts = hosts  # the host of each rank
        self.committed_round = next_round - 1
        self.evaluated_round = max(next_round - 2, -1)  # the last round whose evaluation is in the log
        self.last_problem = "none"  # why the last client was dropped
        self._submodels = {tuple(sizes): number for number, sizes in enumerate(log.submodels.tolist())}
        for selection in experiment.ladder():  # logged first, so that sub-model 0 is the full model
            self._submodel(0, selection)

    def round(self, current: Round, reports: np.ndarray, clock: Clock, exchange_bytes: int) -> None:
        """Log a committed round from its groups' reports."""
        clients = self._client_rows(current, reports)
        self.log.append("clients", **clients)
        self._log_problems(current, reports)
        self.log.append("groups", **self._group_rows(current, reports, clock))
        row = self._round_row(current, clients, clock) | {"exchange_bytes": exchange_bytes}
        self.log.append("rounds", **row)
        self.commit()
        self.committed_round = current.plan.round
        for display in self.displays:
            display.round_done(row)

    def commit(self) -> None:
        """Write what was logged to the disk."""
        self.disk.write(self.log.commit)

    def repeat(self, current: Round, tally: Tally, min_trained: int) -> None:
        """Log a round that is repeated with another cohort."""
        self._log_problems(current, tally.reports)
        self.event(
            current.plan.round,
            "repeated",
            f"{len(tally.trained)} of {len(tally.reports)} clients gave an update, fewer than federation.min_trained "
            f"{min_trained}: repeated with another cohort",
        )

    def recovery(self, number: int, failure: Failure, still_open: np.ndarray) -> None:
        """Log that the run goes on without ranks that died.

        ``still_open`` are the positions in the cohort of the clients that are not trained yet.
        """
        seconds = time.perf_counter() - failure.start
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        for rank in failure.ranks:
            num_again = int((failure.dealt[still_open] == rank - 1).sum())
            message = (
                f"rank {rank} on {self.hosts[rank]} died (found {now}): {num_again} clients that it had are trained "
                f"again, the others went on after {seconds:.1f} s"
            )
            say(f"round {number}: {message}")
            self.event(number, "recovery", message, rank=rank)

    def event(self, number: int, kind: str, message: str, rank: int = -1, client: int = -1) -> None:
        """Log an event; -1 stands for no rank and no client."""
        self.log.append("events", round=number, client=client, rank=rank, kind=kind, message=message)

    def checkpoint(self, checkpoint: Checkpoint, seconds: float) -> None:
        """Log a checkpoint."""
        self.log.append(
            "checkpoints",
            round=checkpoint.round,
            model_sha256=checkpoint.state["model_sha256"],
            bytes=checkpoint.num_bytes,
            write_s=seconds,
        )

    def evaluation(self, number: int, selection: Selection, role: str, predictions: np.ndarray, seconds: float) -> None:
        """Log the scores of a sub-model on a split after a round, from predictions of :func:`evaluation.evaluate`."""
        experiment, split = self.experiment, self.experiment.split(role)
        self.evaluated_round = number
        main, *_ = experiment.metrics
        scores = score_split(experiment.info, experiment.metrics, predictions, split)
        key = {"round": number, "submodel": self._submodel(number, selection), "split": role}
        row = {
            **key,
            "num_examples": len(np.unique(split.examples)),
            "loss": scores.pop("loss"),
            "score": scores[main],
            "seconds": seconds,
        }
        self.log.append("evaluation", **row)
        for name, value in scores.items():
            self.log.append("metrics", **key, metric=name, value=value)
        for display in self.displays:
            display.evaluated({**row, "metric": main, "metrics": scores}, selection == FULL)

    def client_scores(self, number: int, selection: Selection, predictions: np.ndarray) -> None:
        """Log the score of each client on its share of the test split, and their mean, worst and best tenth."""
        experiment, split = self.experiment, self.experiment.split("test")
        main, *_ = experiment.metrics
        scores = score_clients(experiment.info, (main,), predictions, split, experiment.owners)
        values = np.array([score[main] for score in scores.values()])
        from_worst = np.sort(values)[:: -1 if main in LOWER_IS_BETTER else 1]
        tenth = -(-len(values) // 10)
        key = {"round": number, "submodel": self._submodel(number, selection)}
        self.log.append(
            "personal",
            **key,
            num_clients=len(values),
            mean=values.mean(),
            worst_tenth=from_worst[:tenth].mean(),
            best_tenth=from_worst[-tenth:].mean(),
        )
        clients = np.array(list(scores))
        self.log.append(
            "client_scores",
            **{name: np.full(len(clients), value) for name, value in key.items()},
            client=clients,
            num_examples=np.bincount(experiment.owners[experiment.owners >= 0])[clients],
            loss=np.array([score["loss"] for score in scores.values()]),
            score=values,
        )

    def _client_rows(self, current: Round, reports: np.ndarray) -> dict[str, np.ndarray]:
        plan, experiment, virtual = current.plan, self.experiment, current.virtual
        bytes_down, bytes_up = experiment.traffic(current.selections)
        flops, status = current.flops, np.where(reports["trained"], "trained", "dropped").astype("U8")
        if virtual:
            bytes_down, bytes_up, flops = virtual.bytes_down, virtual.bytes_up, virtual.flops
            status[plan.away] = virtual.status[plan.away]
        return {
            "round": np.full(len(reports), plan.round),
            "client": plan.cohort,
            "submodel": np.array([self._submodel(plan.round, selection) for selection in current.selections]),
            "parameters": np.array([experiment.prices(selection).parameters for selection in current.selections]),
            "train_flops": flops,
            "num_examples": experiment.partition.sizes[plan.cohort],
            "bytes_down": bytes_down,
            "bytes_up": bytes_up,
            "status": status,
            **_virtual_columns(virtual, len(reports)),
        } | {name: reports[name] for name in CLIENT_REPORT.names or () if name not in _NOT_LOGGED}

    def _log_problems(self, current: Round, reports: np.ndarray) -> None:
        if current.virtual and len(current.plan.away):
            last = current.plan.away[-1]
            fate = _FATES[str(current.virtual.status[last])]
            self.last_problem = f"client {current.plan.cohort[last]} is {fate}"
        for position in np.flatnonzero(reports["problem"] != b""):
            kind = "retried" if reports["trained"][position] else "dropped"
            message = reports["problem"][position].decode(errors="ignore")
            client, rank = int(current.plan.cohort[position]), self._rank_of(reports["group"][position])
            self.event(current.plan.round, kind, message, rank, client)
            self.last_problem = f"client {client}: {message}" if kind == "dropped" else self.last_problem

    def _group_rows(self, current: Round, reports: np.ndarray, clock: Clock) -> dict[str, np.ndarray]:
        reports = reports[reports["group"] != NOBODY]
        # A run that goes on may have had more groups before it stopped.
        count = max(len(self.hosts), 1 + int(reports["group"].max(initial=0)))
        predicted_s = np.zeros(count)
        predicted_s[: len(clock.predicted_s)] = clock.predicted_s
        # The groups that are alive, and those that died after they handed over what they had trained.
        groups = np.union1d(reports["group"], clock.groups).astype(int)
        actual_s = _group_seconds(reports, count)[groups]
        return {
            "round": np.full(len(groups), current.plan.round),
            "group": groups,
            "rank": np.array([self._rank_of(group) for group in groups]),
            "num_clients": np.bincount(reports["group"], minlength=count)[groups],
            "predicted_s": predicted_s[groups],
            "actual_s": actual_s,
            "idle_s": actual_s.max() - actual_s,
        }

    def _rank_of(self, group: int) -> int:
        """The rank of a group; -1 for a group that only an earlier start of the run had.

        Group g is rank g + 1; the server's own group has the last number.
        """
        return (int(group) + 1) % len(self.hosts) if group < len(self.hosts) else -1

    def _round_row(self, current: Round, clients: dict[str, np.ndarray], clock: Clock) -> dict[str, Any]:
        trained = clients["status"] == "trained"
        examples = clients["num_examples"][trained]
        losses = clients["mean_loss"][trained]
        return {
            "round": current.plan.round,
            "attempt": current.plan.attempt,
            "num_clients": len(trained),
            "num_trained": int(trained.sum()),
            "num_dropped": int((~trained).sum()),
            "num_recoveries": clock.num_recoveries,
            "num_examples": int(examples.sum()),
            "learning_rate": learning_rate(self.experiment.settings.training, current.plan.round),
            "train_loss": float(np.average(losses, weights=examples)) if len(examples) else float("nan"),
            "envelope_parameters": sum(int(np.prod(shape)) for shape in current.layout.shapes.values()),
            "bytes_down": int(clients["bytes_down"].sum()),
            "bytes_up": int(clients["bytes_up"].sum()),
            "virtual_start_s": current.virtual.start_s if current.virtual else float("nan"),
            "virtual_round_s": current.virtual.seconds if current.virtual else float("nan"),
            "energy_j": float(clients["energy_j"].sum()),
            "predicted_s": float(clock.predicted_s.max()),
            "broadcast_s": clock.broadcast_s,
            "train_s": float(_group_seconds(clients, 0).max(initial=0.0)),
            "reduce_s": clock.reduce_s,
            "commit_s": clock.commit_s,
            "round_s": clock.round_s,
        }

    def _submodel(self, number: int, selection: Selection) -> int:
        """The id of a sub-model; a new one gets a row of its own."""
        sizes = self.experiment.prices.sizes(selection)
        if sizes not in self._submodels:
            self._submodels[sizes] = len(self._submodels)
            price = self.experiment.prices(selection)
            self.log.append(
                "submodels",
                submodel=self._submodels[sizes],
                round=number,
                parameters=price.parameters,
                forward_flops=price.forward_flops,
                bytes=price.bytes,
                memory_bytes=self.experiment.prices.training_bytes(selection),
                sizes=np.array([sizes]),
            )
        return self._submodels[sizes]


def _virtual_columns(virtual: VirtualRound | None, num_clients: int) -> dict[str, np.ndarray]:
    """Device, seconds and energy of each client by the virtual clock; NaN and NO_DEVICE without devices."""
    names = ("download_s", "train_s", "upload_s", "wait_s")
    if virtual is None:
        none = np.full(num_clients, np.nan)
        return {"device": np.full(num_clients, NO_DEVICE), "energy_j": none} | {f"virtual_{n}": none for n in names}
    seconds = {f"virtual_{name}": getattr(virtual, name) for name in names}
    return {"device": virtual.device, "energy_j": virtual.energy_j, **seconds}


def _group_seconds(rows: Mapping[str, np.ndarray] | np.ndarray, count: int) -> np.ndarray:
    """Measured seconds of each group: its clients' training and overhead."""
    is_dealt = rows["group"] != NOBODY
    seconds = (rows["train_s"] + rows["overhead_s"])[is_dealt]
    return np.bincount(rows["group"][is_dealt], weights=seconds, minlength=count)
