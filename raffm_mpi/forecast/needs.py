"""Predict what a run needs: derive its first rounds by the functions that the run itself uses, and count their cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raffm_mpi.elastic.cost import FLOAT32_BYTES
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.elastic.packing import num_entries
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.chunks import CHUNK_BYTES, CHUNKS_UNDER_WAY
from raffm_mpi.federation.plan import NOBODY, SPLITS, Action, Plan, Round, cohort
from raffm_mpi.federation.schedule import Schedule
from raffm_mpi.federation.serve import shard_evaluation
from raffm_mpi.federation.tally import CLIENT_REPORT
from raffm_mpi.forecast.calibration import Calibration
from raffm_mpi.forecast.sketch import Sketch
from raffm_mpi.learning.evaluation import num_predictions

SUM_BYTES = 8  # of an entry of the exact sums, int64
_MOST_ROUNDS = 10  # at most so many rounds are derived; a longer run is assumed to repeat them
_MOST_CLIENTS = (
    2000  # at most so many clients are in these rounds, so that a forecast takes seconds; one round always is
)


@dataclass(frozen=True)
class Cluster:
    """The nodes of a run: a client group on each GPU (or share of a node), and the server on the first node."""

    num_nodes: int
    groups_per_node: int

    def __post_init__(self) -> None:
        for option, number in (("--nodes", self.num_nodes), ("--gpus-per-node", self.groups_per_node)):
            if number < 1:
                raise UserMistake(f"{option}: {number} is not allowed; allowed are whole numbers from 1")

    @property
    def num_groups(self) -> int:
        """Client groups, and ranks beside the server."""
        return self.num_nodes * self.groups_per_node

    @property
    def num_ranks(self) -> int:
        """The server and the groups."""
        return self.num_groups + 1


@dataclass(frozen=True)
class Volume:
    """What one round moves and computes; bytes of MPI are those of one rank, as the log's ``exchange_bytes``."""

    num_clients: int
    parameters: int  # of the envelope
    entries: int  # of the envelope's buffer: parameters and the gaps between them
    is_packed: bool  # whether the envelope is less than the model
    plan_bytes: int
    envelope_bytes: int
    sums_bytes: int
    reports_bytes: int
    clients_bytes: int  # simulated: parameters sent to the clients; as many come back
    flops: np.ndarray  # of each client, float64 [cohort]

    @property
    def broadcast_bytes(self) -> int:
        """Bytes that rank 0 broadcasts."""
        return self.plan_bytes + self.envelope_bytes

    @property
    def reduce_bytes(self) -> int:
        """Bytes that are reduced to rank 0."""
        return self.sums_bytes + self.reports_bytes

    @property
    def exchange_bytes(self) -> int:
        """Bytes that are broadcast and reduced."""
        return self.broadcast_bytes + self.reduce_bytes


@dataclass(frozen=True)
class Memory:
    """Bytes of a group and of the server, at their peaks.

    A group on a GPU holds there the envelope, the exact sums, and the training of its largest sub-model. On its host it
    holds the initial model, and the envelope and the sums as they travel. On a CPU both are one memory, and nothing is
    held twice. Prepared examples are memory-mapped, and the ranks of a node share them. The server holds the initial
    model, the global model, the envelope and the sums, and two more copies of the model while it reorders. Frozen
    parameters never travel; each rank holds them once, and its GPU once more.
    """

    model_bytes: int  # of the parameters that travel
    envelope_bytes: int
    sums_bytes: int
    training_bytes: int
    process_bytes: int  # 0 without a calibration
    on_gpu: bool
    fixed_bytes: int = 0  # of the frozen parameters

    @property
    def is_packed(self) -> bool:
        """Whether the server copies the envelope out of the model; a whole model is sent without a copy."""
        return self.envelope_bytes < self.model_bytes

    @property
    def gpu_bytes(self) -> int:
        """Of a group's GPU; 0 on a CPU."""
        own = self.envelope_bytes + self.sums_bytes + self.training_bytes + self.fixed_bytes
        return own if self.on_gpu else 0

    @property
    def group_bytes(self) -> int:
        """Of a group, on its host."""
        shared = self.process_bytes + self.fixed_bytes + self.model_bytes + self.envelope_bytes + self.sums_bytes
        return shared if self.on_gpu else shared + self.training_bytes

    @property
    def server_bytes(self) -> int:
        """Of rank 0, on its host."""
        packed = self.envelope_bytes if self.is_packed else 0
        return self.process_bytes + self.fixed_bytes + 4 * self.model_bytes + packed + self.sums_bytes


@dataclass(frozen=True)
class Phases:
    """Seconds of one round: ``broadcast_s`` and ``reduce_s`` are None where the exchange was not measured."""

    compute_s: float  # the schedule's makespan
    broadcast_s: float | None
    reduce_s: float | None
    server_s: float  # deriving the round on every rank, packing, dividing the sums, reordering
    aside_s: float = 0.0  # the server's checkpoint and evaluation while the groups train

    @property
    def communication_s(self) -> float:
        """Broadcast and reduce; 0 where they were not measured."""
        return (self.broadcast_s or 0.0) + (self.reduce_s or 0.0)

    @property
    def round_s(self) -> float:
        """The whole round on rank 0, as the log's ``round_s``."""
        return max(self.compute_s, self.aside_s) + self.communication_s + self.server_s


@dataclass(frozen=True)
class Duration:
    """Seconds of a run without its set-up."""

    phases: tuple[Phases, ...]  # of the first rounds
    checkpoint_s: float
    evaluation_s: float  # of one evaluation between rounds
    by_groups: bool  # whether the groups evaluate, between rounds; else the server does, while they train
    rounds_s: float  # all rounds
    between_s: float  # evaluations between rounds
    final_s: float  # the last checkpoint and evaluation

    @property
    def run_s(self) -> float:
        """The whole run."""
        return self.rounds_s + self.between_s + self.final_s


@dataclass(frozen=True)
class Prediction:
    """What a run will need on a cluster; ``duration`` is None without a calibration."""

    cluster: Cluster
    num_rounds: int
    volumes: tuple[Volume, ...]  # of the first rounds
    memory: Memory
    duration: Duration | None

    @property
    def node_hours(self) -> float | None:
        """Nodes times hours of the run."""
        return None if self.duration is None else self.cluster.num_nodes * self.duration.run_s / 3600


def predict(sketch: Sketch, cluster: Cluster, calibration: Calibration | None = None) -> Prediction:
    """What the sketched run will need on a cluster of nodes like the calibrated one."""
    outline = sketch.outline
    num_rounds = outline.settings.federation.num_rounds
    rounds = [derive_round(sketch, 0)]
    affordable = max(1, _MOST_CLIENTS // len(rounds[0].selections))
    rounds += [derive_round(sketch, number) for number in range(1, min(num_rounds, _MOST_ROUNDS, affordable))]
    volumes = tuple(volume(derived) for derived in rounds)
    memory = _memory(sketch, rounds, volumes, calibration)
    duration = _duration(sketch, cluster, calibration, rounds, volumes) if calibration else None
    return Prediction(cluster, num_rounds, volumes, memory, duration)


def derive_round(sketch: Sketch, number: int) -> Round:
    """A round as the server samples it and every rank derives it, before its clients are dealt to groups."""
    drawn = cohort(sketch.outline.settings, sketch.outline.partition.num_clients, number)
    return Round.derive(Plan(Action.TRAIN, number, drawn, np.full(len(drawn), NOBODY)), sketch.outline)


def volume(current: Round) -> Volume:
    """What a round moves and computes."""
    entries = num_entries(current.layout)
    return Volume(
        num_clients=len(current.plan.cohort),
        parameters=sum(math.prod(shape) for shape in current.layout.shapes.values()),
        entries=entries,
        is_packed=bool(current.envelope),
        plan_bytes=current.plan.num_bytes,
        envelope_bytes=FLOAT32_BYTES * entries,
        sums_bytes=SUM_BYTES * num_entries(current.sums),
        reports_bytes=CLIENT_REPORT.itemsize * len(current.plan.cohort),
        clients_bytes=int(current.experiment.traffic(current.selections)[0].sum()),
        flops=current.flops,
    )


def transfer_s(num_bytes: int, num_ranks: int, latency_s: float, bytes_per_s: float) -> float:
    """Seconds of one broadcast or reduce among so many ranks.

    Transfers go in C chunks of 4 MiB, four under way, each through a binomial tree of depth D = ceil(log2 ranks)
    (Thakur, Rabenseifner and Gropp, 2005): ``D * (latency * C / 4 + bytes / bandwidth)``. An MPI library that pipelines
    chunks along a chain is faster, with a time nearer to bytes / bandwidth.

    >>> round(transfer_s(2**30, 1001, 1e-6, 2**30), 5)  # ten levels of a second each, and of 64 latencies
    10.00064
    """
    return depth(num_ranks) * (latency_s * chunks_in_turn(num_bytes) + num_bytes / bytes_per_s)


def depth(num_ranks: int) -> int:
    """Levels of a binomial tree of so many ranks: ceil(log2 ranks)."""
    return (num_ranks - 1).bit_length()


def chunks_in_turn(num_bytes: int) -> int:
    """How many chunks of a transfer follow each other, with :data:`CHUNKS_UNDER_WAY` at a time."""
    return math.ceil(math.ceil(num_bytes / CHUNK_BYTES) / CHUNKS_UNDER_WAY)


def makespan_s(volume: Volume, num_groups: int, calibration: Calibration) -> float:
    """Seconds of the slowest group, as the schedule deals clients to groups of the calibrated speed."""
    schedule = Schedule(num_groups)
    schedule.flops_per_s[:] = calibration.training_flops_per_s
    schedule.base_s[:] = base_s(volume, calibration)
    return float(schedule.assign(volume.flops)[1].max())


def base_s(volume: Volume, calibration: Calibration) -> float:
    """Mean seconds of a client beside its steps: a fixed part, and a part that grows with its sub-model."""
    return calibration.base_s + volume.clients_bytes / volume.num_clients / calibration.update_bytes_per_s


def _memory(
    sketch: Sketch, rounds: Sequence[Round], volumes: Sequence[Volume], calibration: Calibration | None
) -> Memory:
    outline = sketch.outline
    held = (selection for derived in rounds for selection in derived.selections)
    sent_bytes = FLOAT32_BYTES * num_entries(outline.aggregator.sent)
    wants_gpu = outline.settings.compute.device != "cpu"
    largest = max(volumes, key=lambda volume: volume.entries)
    return Memory(
        model_bytes=sent_bytes,
        envelope_bytes=largest.envelope_bytes,
        sums_bytes=largest.sums_bytes,
        training_bytes=outline.prices.training_bytes(
            max(held, key=lambda selection: outline.prices(selection).parameters)
        ),
        process_bytes=calibration.process_bytes if calibration else 0,
        on_gpu=calibration.device == "cuda" if calibration else wants_gpu,
        fixed_bytes=FLOAT32_BYTES * num_entries(outline.layout) - sent_bytes,
    )


def _duration(
    sketch: Sketch, cluster: Cluster, calibration: Calibration, rounds: Sequence[Round], volumes: Sequence[Volume]
) -> Duration:
    settings = sketch.outline.settings
    by_groups = _groups_evaluate(sketch, cluster, calibration)
    ladder = sketch.outline.ladder()
    between = [("validation" if "validation" in sketch.num_rows else "test", selection) for selection in ladder]
    if settings.evaluation.submodels != "always":
        between = between[:1]
    finally_all = [
        (role, s) for role in SPLITS for s in (ladder if settings.evaluation.submodels != "never" else [FULL])
    ]

    def evaluation_s(evaluated: Sequence[tuple[str, Selection]]) -> float:
        return sum(_evaluation_s(sketch, cluster, calibration, by_groups, *one) for one in evaluated)

    every, checkpoint_every = settings.evaluation.every, settings.reliability.checkpoint_every
    num_rounds, each_s = settings.federation.num_rounds, evaluation_s(between)
    checkpoint_s = FLOAT32_BYTES * num_entries(sketch.outline.aggregator.sent) / calibration.checkpoint_bytes_per_s
    plain = [phases_of(volume, cluster, calibration) for volume in volumes]
    phases = []
    for number in range(num_rounds):
        saves = checkpoint_every is not None and number > 0 and number % checkpoint_every == 0
        evaluates = not by_groups and number > 0 and number % every == 0
        aside_s = checkpoint_s * saves + each_s * evaluates
        phases.append(replace(plain[number % len(plain)], aside_s=aside_s))
    return Duration(
        phases=tuple(phases[: len(rounds)]),
        checkpoint_s=checkpoint_s,
        evaluation_s=each_s,
        by_groups=by_groups,
        rounds_s=sum(phase.round_s for phase in phases),
        between_s=each_s * ((num_rounds - 1) // every) if by_groups else 0.0,
        final_s=checkpoint_s + evaluation_s(finally_all),
    )


def phases_of(volume: Volume, cluster: Cluster, calibration: Calibration) -> Phases:
    """Seconds of one round's phases, without checkpoint and evaluation."""
    exchange, ranks = calibration.exchange, cluster.num_ranks
    broadcast_s = reduce_s = None
    if exchange is not None:
        sent, received = (volume.plan_bytes, volume.envelope_bytes), (volume.sums_bytes, volume.reports_bytes)
        broadcast_s = sum(transfer_s(n, ranks, exchange.latency_s, exchange.broadcast_bytes_per_s) for n in sent)
        reduce_s = sum(transfer_s(n, ranks, exchange.latency_s, exchange.reduce_bytes_per_s) for n in received)
    packing_s = volume.envelope_bytes / calibration.pack_bytes_per_s if volume.is_packed else 0.0
    # The server derives the round before it sends the plan, the groups when they have it.
    client_s = 2 * calibration.derive_client_s + calibration.commit_client_s
    server_s = packing_s + volume.sums_bytes / calibration.commit_bytes_per_s + client_s * volume.num_clients
    return Phases(makespan_s(volume, cluster.num_groups, calibration), broadcast_s, reduce_s, server_s)


def _groups_evaluate(sketch: Sketch, cluster: Cluster, calibration: Calibration) -> bool:
    """Whether the run will let the groups evaluate, as its rank 0 decides on the first node.

    A node has a GPU for each of its groups, so that the server shares the first.
    """
    cores = ",".join(str(core) for core in range(calibration.cores))
    numbers = [0, *range(cluster.groups_per_node)]
    devices = ["cpu" if calibration.device == "cpu" else f"cuda:{number}" for number in numbers]
    return shard_evaluation(sketch.outline.settings, [["node", device, cores] for device in devices])


def _evaluation_s(
    sketch: Sketch, cluster: Cluster, calibration: Calibration, by_groups: bool, role: str, selection: Selection
) -> float:
    """Seconds of evaluating one sub-model on one split."""
    num_rows, outline = sketch.num_rows.get(role, 0), sketch.outline
    if not num_rows:
        return 0.0
    batch_size = outline.settings.evaluation.batch_size
    flops = outline.prices(selection).forward_flops
    if not by_groups:
        return flops * num_rows / calibration.evaluation_flops_per_s
    most = min(num_rows, batch_size * math.ceil(math.ceil(num_rows / batch_size) / cluster.num_groups))
    seconds = flops * most / calibration.evaluation_flops_per_s
    if calibration.exchange is not None:
        exchange, ranks = calibration.exchange, cluster.num_ranks
        moved = FLOAT32_BYTES * num_entries(outline.aggregator.sent.restrict(selection))
        predictions = 8 * num_rows * num_predictions(outline.info)
        seconds += transfer_s(moved, ranks, exchange.latency_s, exchange.broadcast_bytes_per_s)
        seconds += transfer_s(predictions, ranks, exchange.latency_s, exchange.reduce_bytes_per_s)
    return seconds
