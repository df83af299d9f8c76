"""What rank 0 writes down of a run: the rows of the log, and a line for people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from raffm_mpi.elastic.cost import peak_training_bytes
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.evaluation import score_clients, score_split
from raffm_mpi.federation.experiment import Experiment
from raffm_mpi.federation.plan import CLIENT_REPORT, Round
from raffm_mpi.log import LOWER_IS_BETTER, RunLog
from raffm_mpi.training import learning_rate


class Display(Protocol):
    """Where a person sees the run go on."""

    def round_done(self, row: Mapping[str, Any]) -> None:
        """A round was committed; ``row`` is its row of the rounds table."""

    def evaluated(self, row: Mapping[str, Any], is_full: bool) -> None:
        """A model was evaluated; ``row`` is its row of the evaluation table."""

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


class Recorder:
    """Turns rounds and evaluations into rows; a round's rows are committed together."""

    def __init__(self, experiment: Experiment, log: RunLog, display: Display, first_rank: int) -> None:
        self.experiment = experiment
        self.log = log
        self.display = display
        self.first_rank = first_rank  # of the client groups
        self._submodels: dict[tuple[int, ...], int] = {}
        for selection in experiment.method.ladder():  # these come first: sub-model 0 is the full one
            self._submodel(0, selection)

    def round(self, round: Round, reports: np.ndarray, clock: Clock, exchange_bytes: int) -> None:
        """Log a committed round from its groups' reports."""
        clients = self._client_rows(round, reports)
        self.log.append("clients", **clients)
        self._log_drops(round, reports)
        self.log.append("groups", **self._group_rows(round, reports, clock))
        row = self._round_row(round, clients, clock) | {"exchange_bytes": exchange_bytes}
        self.log.append("rounds", **row)
        self.log.commit()
        self.display.round_done(row)

    def evaluation(self, number: int, selection: Selection, role: str, predictions: np.ndarray, seconds: float) -> None:
        """Log what a sub-model's predictions after a round are worth; they are :func:`evaluation.evaluate`'s."""
        experiment, split = self.experiment, self.experiment.split(role)
        main, *_ = experiment.metrics
        scores = score_split(experiment.info.task, experiment.metrics, predictions, split)
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
        self.display.evaluated({**row, "metric": main}, selection == FULL)

    def client_scores(self, number: int, selection: Selection, predictions: np.ndarray) -> None:
        """Log what predictions on the test split are worth to each client, on its share of it."""
        experiment, split = self.experiment, self.experiment.split("test")
        main, *_ = experiment.metrics
        scores = score_clients(experiment.info.task, (main,), predictions, split, experiment.owners)
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

    def _client_rows(self, round: Round, reports: np.ndarray) -> dict[str, np.ndarray]:
        plan, experiment = round.plan, self.experiment
        prices = [experiment.cost(selection) for selection in round.selections]
        num_bytes = np.array([price.bytes for price in prices])
        return {
            "round": np.full(len(reports), plan.round),
            "client": plan.cohort,
            "group": plan.groups,
            "submodel": np.array([self._submodel(plan.round, selection) for selection in round.selections]),
            "parameters": np.array([price.parameters for price in prices]),
            "train_flops": round.flops,
            "num_examples": experiment.partition.sizes[plan.cohort],
            "bytes_down": num_bytes,
            "bytes_up": num_bytes,
            "status": np.where(reports["trained"], "trained", "dropped"),
        } | {name: reports[name] for name in CLIENT_REPORT.names or () if name not in ("trained", "flaw")}

    def _log_drops(self, round: Round, reports: np.ndarray) -> None:
        for position in np.flatnonzero(reports["trained"] == 0):
            self.log.append(
                "events",
                round=round.plan.round,
                client=round.plan.cohort[position],
                rank=round.plan.groups[position] + self.first_rank,
                kind="dropped",
                message=reports["flaw"][position].decode(errors="ignore"),
            )

    def _group_rows(self, round: Round, reports: np.ndarray, clock: Clock) -> dict[str, np.ndarray]:
        count = len(clock.predicted_s)
        actual_s = _group_seconds(round, reports, count)
        return {
            "round": np.full(count, round.plan.round),
            "group": np.arange(count),
            "rank": np.arange(count) + self.first_rank,
            "num_clients": np.bincount(round.plan.groups, minlength=count),
            "predicted_s": clock.predicted_s,
            "actual_s": actual_s,
            "idle_s": actual_s.max() - actual_s,
        }

    def _round_row(self, round: Round, clients: dict[str, np.ndarray], clock: Clock) -> dict[str, Any]:
        trained = clients["status"] == "trained"
        examples = clients["num_examples"][trained]
        losses = clients["mean_loss"][trained]
        return {
            "round": round.plan.round,
            "num_clients": len(trained),
            "num_trained": int(trained.sum()),
            "num_dropped": int((~trained).sum()),
            "num_examples": int(examples.sum()),
            "learning_rate": learning_rate(self.experiment.settings.training, round.plan.round),
            "train_loss": float(np.average(losses, weights=examples)) if len(examples) else float("nan"),
            "envelope_parameters": sum(int(np.prod(shape)) for shape in round.layout.shapes.values()),
            "bytes_down": int(clients["bytes_down"].sum()),
            "bytes_up": int(clients["bytes_up"].sum()),
            "predicted_s": float(clock.predicted_s.max()),
            "broadcast_s": clock.broadcast_s,
            "train_s": float(_group_seconds(round, clients, 0).max()),
            "reduce_s": clock.reduce_s,
            "commit_s": clock.commit_s,
            "round_s": clock.round_s,
        }

    def _submodel(self, number: int, selection: Selection) -> int:
        """The id of a sub-model; a new one gets a row of its own."""
        sizes = self.experiment.sizes(selection)
        if sizes not in self._submodels:
            self._submodels[sizes] = len(self._submodels)
            training, price = self.experiment.settings.training, self.experiment.cost(selection)
            self.log.append(
                "submodels",
                submodel=self._submodels[sizes],
                round=number,
                parameters=price.parameters,
                forward_flops=price.forward_flops,
                bytes=price.bytes,
                memory_bytes=peak_training_bytes(
                    self.experiment.layout,
                    selection,
                    batch_size=training.batch_size,
                    **self.experiment.lengths,
                    optimizer="sgd_momentum" if training.momentum else training.optimizer,
                ),
                sizes=np.array([sizes]),
            )
        return self._submodels[sizes]


def _group_seconds(round: Round, rows: Mapping[str, np.ndarray] | np.ndarray, count: int) -> np.ndarray:
    """Measured seconds of each group: its clients' training and overhead."""
    return np.bincount(round.plan.groups, weights=rows["train_s"] + rows["overhead_s"], minlength=count)
