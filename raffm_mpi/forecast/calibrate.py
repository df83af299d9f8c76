"""Measure what one node does: clients trained by real client groups, the server's own work, and the exchange.

Started as the run will be started on one node, with a rank for the server and one for each group, so that the groups
compete for memory and caches as they will.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from raffm_mpi.aggregation import Gathered
from raffm_mpi.aggregation.exact import ExactSum, flaw
from raffm_mpi.aggregation.server_optimizer import make_server_optimizer
from raffm_mpi.config import Settings
from raffm_mpi.elastic.cost import FLOAT32_BYTES
from raffm_mpi.elastic.labels import FULL, Selection, Tensors, union
from raffm_mpi.elastic.packing import Packed, num_entries, pack
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.federation.build import import_libraries
from raffm_mpi.federation.client_group import ClientGroup, sliced
from raffm_mpi.federation.experiment import Experiment
from raffm_mpi.federation.plan import NOBODY, Action, Plan, Round, cohort
from raffm_mpi.federation.run import set_up
from raffm_mpi.federation.server_update import server_update
from raffm_mpi.files import nearest_existing
from raffm_mpi.forecast.calibration import Calibration, ExchangeSpeeds
from raffm_mpi.forecast.needs import SUM_BYTES, chunks_in_turn, depth
from raffm_mpi.learning.evaluation import evaluate
from raffm_mpi.learning.training import num_steps
from raffm_mpi.recovery import checkpoint as checkpoints
from raffm_mpi.tasks import inspect
from raffm_mpi.versions import versions

_TRAINING_S = 20.0  # that each group is to train for, about
_MOST_CLIENTS = 12  # of one group
_MOST_IN_COHORT = 1000  # for the server's part
_EVALUATION_S = 4.0
_REPEATS = 5
_MEASURED_BYTES = (1 << 20, 1 << 28)  # least and most of a transfer that is timed


def calibrate(settings: Settings, ranks: Ranks) -> Calibration | None:
    """Measure on all ranks; the calibration is returned on rank 0. Raises SharedMistake as :func:`run.set_up`."""
    import_libraries()
    # Rank 0 has what reads data sets in memory, too.
    ranks.together(lambda: inspect(settings.data) if ranks.rank == 0 else None)
    process_bytes = _resident_bytes()
    experiment = set_up(settings, ranks)
    sent = experiment.aggregator.sent
    model = pack(sent, {n: p.detach() for n, p in experiment.model.named_parameters() if n in sent.labels})
    bench = _Bench(experiment, ranks, model)
    training = bench.training()
    update_s = bench.of_groups(bench.update_s)
    evaluation = bench.of_groups(bench.evaluation_flops_per_s)
    exchange = bench.exchange() if ranks.size > 1 else None
    if ranks.rank > 0:
        return None
    model_bytes = FLOAT32_BYTES * num_entries(sent)
    update_bytes_per_s = model_bytes / update_s
    flops_per_s, overhead_s, mean_bytes = training
    return Calibration(
        device="cpu" if experiment.processor.device.type == "cpu" else "cuda",
        device_name=_device_name(experiment.processor.device),
        cores=len(os.sched_getaffinity(0)),
        num_groups=bench.num_groups,
        threads=settings.compute.threads_per_group,
        precision=settings.compute.precision,
        parameters=experiment.prices(FULL).parameters,
        memory_bytes=_memory_bytes(experiment.processor.device),
        process_bytes=process_bytes,
        training_flops_per_s=flops_per_s,
        evaluation_flops_per_s=evaluation,
        base_s=max(0.0, overhead_s - mean_bytes / update_bytes_per_s),
        update_bytes_per_s=update_bytes_per_s,
        checkpoint_bytes_per_s=model_bytes / bench.checkpoint_s(),
        exchange=exchange,
        versions=versions(),
        **bench.server(),
    )


class _Bench:
    """The measurements; each is called on every rank, and rank 0 has the result."""

    def __init__(self, experiment: Experiment, ranks: Ranks, model: Packed) -> None:
        self.experiment = experiment
        self.ranks = ranks
        self.model = model
        self.num_groups = max(1, ranks.size - 1)
        self.is_group = ranks.rank > 0 or ranks.size == 1

    def training(self) -> tuple[float, float, float]:
        """FLOP/s of one group, and the mean seconds beside the steps and bytes of a client."""
        settings = self.experiment.settings
        one_step = self._with_steps(1)
        drawn = cohort(settings, self.experiment.partition.num_clients, 0)
        for _ in range(2):  # the first touches memory for the first time
            reports, _ = self._train(one_step, drawn[: self.num_groups])
        step_s = float(reports["train_s"].max())
        most = max(num_steps(settings.training, int(size)) for size in self.experiment.partition.sizes[drawn])
        clients = min(_MOST_CLIENTS, math.ceil(len(drawn) / self.num_groups))
        affordable = max(1, int(_TRAINING_S / clients / max(step_s, 1e-9)))
        # All ranks train as rank 0 has found.
        steps = np.array([0 if affordable >= most else affordable])
        self.ranks.broadcast(steps)
        chosen = self._with_steps(int(steps[0])) if steps[0] else self.experiment
        reports, current = self._train(chosen, drawn[: clients * self.num_groups])
        done = reports["trained"] == 1
        self.ranks.together(lambda: _check_trained(reports) if self.ranks.rank == 0 else None)
        prices = np.array([self.experiment.prices(selection).bytes for selection in current.selections])
        train_s = max(float(reports["train_s"][done].sum()), 1e-9)
        return current.flops[done].sum() / train_s, float(reports["overhead_s"].mean()), float(prices.mean())

    def _train(self, experiment: Experiment, clients: np.ndarray) -> tuple[np.ndarray, Round]:
        """Have the groups train clients in turn, as in a round; their reports come together on rank 0."""
        groups = np.arange(len(clients)) % self.num_groups
        current = Round.derive(Plan(Action.TRAIN, 0, clients, groups), experiment)
        group = ClientGroup(experiment, self.ranks)
        reports = group.train_round(current, self._envelope(current.envelope)).reports
        self.ranks.merge(reports)
        return reports, current

    def _envelope(self, selection: Selection) -> Packed:
        layout = self.experiment.aggregator.sent
        return pack(layout.restrict(selection), layout.take(self.model.tensors, selection))

    def _with_steps(self, steps: int) -> Experiment:
        settings = self.experiment.settings
        training = settings.training.model_copy(update={"local_steps": steps, "local_epochs": None})
        return replace(self.experiment, settings=settings.model_copy(update={"training": training}))

    def of_groups(self, measure: Callable[[], float]) -> float:
        """The mean of what every group measures, all at a time, on rank 0."""
        values = np.zeros(self.ranks.size)
        if self.is_group:
            values[self.ranks.rank] = measure()
        self.ranks.merge(values)
        return float(values.sum()) / self.num_groups

    def update_s(self) -> float:
        """Seconds of slicing, copying, checking and adding what travels of the full model, beside its training."""
        aggregator, device = self.experiment.aggregator, self.experiment.processor.device
        received = {name: tensor.to(device) for name, tensor in self.model.tensors.items()}
        total = ExactSum.zeros(aggregator.summed, aggregator.total_weight([1] * (1 + _REPEATS)), device)

        def step() -> None:
            slices, trained = sliced(aggregator.sent, received, FULL)
            contribution = aggregator.contribution(slices, trained)
            if flaw(contribution) is None:
                aggregator.add(total, FULL, contribution, 1)
            _synchronize(device)

        return _median_s(step)

    def evaluation_flops_per_s(self) -> float:
        """FLOP/s of evaluating the full model, by batches of the first split that there is."""
        experiment = self.experiment
        device, size = experiment.processor, experiment.settings.evaluation.batch_size
        examples = experiment.examples
        split = examples.validation or examples.test or examples.train
        model = experiment.elastic.fill(FULL, self.model.tensors)
        num_batches, seconds, num_rows = -(-len(split) // size), 0.0, 0
        for turn in range(1 + num_batches):  # the first batch is met twice, to begin with
            number = max(0, turn - 1)
            start = time.perf_counter()
            evaluate(model, split, experiment.info, device, size, [number])
            if turn:
                seconds += time.perf_counter() - start
                num_rows += min(size, len(split) - number * size)
            if seconds > _EVALUATION_S:
                break
        return experiment.prices(FULL).forward_flops * num_rows / seconds

    def exchange(self) -> ExchangeSpeeds:
        """Latency and bytes/s between the ranks: a broadcast and a reduce together are a round trip."""
        ranks, levels = self.ranks, depth(self.ranks.size)
        least, most = _MEASURED_BYTES
        num_bytes = min(max(least, FLOAT32_BYTES * num_entries(self.experiment.aggregator.sent)), most)
        small, floats, sums = (
            np.zeros(1, np.int64),
            np.zeros(num_bytes // 4, np.float32),
            np.zeros(num_bytes // 4, np.int64),
        )

        def round_trip_s(down: np.ndarray, up: np.ndarray, repeats: int) -> float:
            def trip() -> None:
                ranks.broadcast(down)
                ranks.reduce(up)

            return _median_s(trip, repeats)

        latency_s = round_trip_s(small, small, 50) / 2 / levels
        rates = []
        for down, up in ((floats, small), (small, sums)):
            moved = max(down.nbytes, up.nbytes)
            both_s = round_trip_s(down, up, _REPEATS)
            latencies_s = levels * latency_s * (chunks_in_turn(moved) + 1)
            rates.append(levels * moved / max(both_s - latencies_s, both_s / 10))
        hosts = len(set(ranks.hosts))
        return ExchangeSpeeds(
            num_ranks=ranks.size,
            num_hosts=hosts,
            latency_s=latency_s,
            broadcast_bytes_per_s=rates[0],
            reduce_bytes_per_s=rates[1],
        )

    def server(self) -> dict[str, float]:
        """What rank 0 alone does in a round: derive, pack, divide the sums, reorder."""
        experiment, layout = self.experiment, self.experiment.aggregator.sent
        drawn = cohort(experiment.settings, experiment.partition.num_clients, 0)[:_MOST_IN_COHORT]
        plan = Plan(Action.TRAIN, 0, drawn, np.full(len(drawn), NOBODY))
        current = Round.derive(plan, experiment)

        one_s = self._commit_s([FULL], [experiment.aggregator.weight(1)])
        all_s = self._commit_s(current.selections, current.weights)
        model_bytes = FLOAT32_BYTES * num_entries(layout)
        return {
            "derive_client_s": _median_s(lambda: Round.derive(plan, experiment).flops) / len(drawn),
            "pack_bytes_per_s": model_bytes / _median_s(lambda: pack(layout, self.model.tensors)),
            "commit_bytes_per_s": SUM_BYTES * num_entries(experiment.aggregator.summed) / one_s,
            "commit_client_s": max(0.0, all_s - one_s) / len(drawn),
        }

    def _commit_s(self, selections: Sequence[Selection], weights: Sequence[int]) -> float:
        """Seconds of the server's update after clients with these selections, one of which has filled the sums."""
        experiment, aggregator = self.experiment, self.experiment.aggregator
        envelope = union(experiment.layout, selections)
        layout, total_weight = aggregator.sent, max(1, aggregator.total_weight(weights))
        total = ExactSum.zeros(aggregator.summed.restrict(envelope), total_weight)
        slices, trained = sliced(layout.restrict(envelope), layout.take(self.model.tensors, envelope), FULL)
        changed = aggregator.contribution(slices, _slightly_changed(trained))
        reported = aggregator.add(total, FULL, changed, sum(weights))
        gathered = Gathered(0, envelope, selections, weights, [reported] * len(weights))
        model = pack(layout, self.model.tensors)
        optimizer = make_server_optimizer(experiment.settings.server, layout)
        return _median_s(lambda: server_update(experiment, model, total, gathered, optimizer))

    def checkpoint_s(self) -> float:
        """Seconds of writing a checkpoint to the disk of the output folder."""
        with tempfile.TemporaryDirectory(dir=nearest_existing(Path(self.experiment.settings.output))) as folder:
            parts = {checkpoints.MODEL: self.model.tensors}
            return _median_s(lambda: checkpoints.save(Path(folder), 0, parts, {}, 1), 3)


def _slightly_changed(tensors: Tensors) -> Tensors:
    """Tensors after what may have been training, in place: products of zeros would be decomposed in no time."""
    generator = torch.Generator().manual_seed(0)
    for tensor in tensors.values():
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=1e-3)
    return tensors


def _check_trained(reports: np.ndarray) -> None:
    if not reports["trained"].any():
        raise UserMistake(f"no client could be trained: {reports['problem'][0].decode(errors='ignore')}")


def _median_s(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Median seconds of some work, which is done once more before."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return max(statistics.median(seconds), 1e-9)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes(device: torch.device) -> int:
    """Memory of a GPU, or of this node."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _resident_bytes() -> int:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
