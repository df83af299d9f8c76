"""A prediction as lines for people; each line shows its arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from raffm_mpi.elastic.labels import FULL
from raffm_mpi.forecast.calibration import Calibration, ExchangeSpeeds
from raffm_mpi.forecast.needs import (
    Cluster,
    Duration,
    Memory,
    Phases,
    Prediction,
    Volume,
    base_s,
    chunks_in_turn,
    depth,
)
from raffm_mpi.forecast.sketch import Sketch
from raffm_mpi.messages import quantity

_NOT_MEASURED = "not measured: calibrate under mpirun, one rank for the server and one for each group of a node"


def lines(sketch: Sketch, prediction: Prediction, calibration: Calibration | None) -> Iterator[str]:
    """The whole forecast, a line for each fact."""
    cluster, volumes = prediction.cluster, prediction.volumes
    yield (
        f"{cluster.num_nodes:,} nodes x {cluster.groups_per_node} groups = {cluster.num_groups:,} client groups, and "
        f"the server on the first node; {prediction.num_rounds:,} rounds"
    )
    yield from _memory(prediction.memory, sketch)
    yield from _round(sketch, volumes)
    if prediction.duration is None or calibration is None:
        yield "seconds: none without --calibration FILE, which raffm-mpi calibrate measures on one node"
    else:
        yield from _seconds(cluster, volumes, prediction.duration, calibration)
        yield from _run(prediction, prediction.duration)
    yield from (f"note: {remark}" for remark in remarks(sketch, cluster, calibration))


def remarks(sketch: Sketch, cluster: Cluster, calibration: Calibration | None) -> Iterator[str]:
    """What was assumed, and where the calibration measured something else than what is planned."""
    yield from sketch.assumed
    if calibration is None:
        return
    compute, exchange = sketch.outline.settings.compute, calibration.exchange
    parameters = sketch.outline.prices(FULL).parameters
    if parameters != calibration.parameters:
        yield f"the calibration is of a model of {calibration.parameters:,} parameters, this one has {parameters:,}"
    for what, measured, wanted in (
        ("compute.threads_per_group", calibration.threads, compute.threads_per_group),
        ("compute.precision", calibration.precision, compute.precision),
        ("groups a node", calibration.num_groups, cluster.groups_per_node),
    ):
        if measured != wanted:
            yield f"the calibration is of {what} {measured}, this forecast has {wanted}"
    if exchange is not None and exchange.num_hosts == 1 and cluster.num_nodes > 1:
        yield (
            f"the exchange was measured between {exchange.num_ranks} ranks of one node; for a network write its "
            "latency_s and bytes_per_s into the calibration's exchange"
        )


def _memory(memory: Memory, sketch: Sketch) -> Iterator[str]:
    envelope, sums, training = (_bytes(n) for n in (memory.envelope_bytes, memory.sums_bytes, memory.training_bytes))
    model = _bytes(memory.model_bytes)
    process = f"process {_bytes(memory.process_bytes)} + " if memory.process_bytes else ""
    travels = f"envelope {envelope} + sums {sums}"
    on_host = f"{process}model {model} + {travels}"
    yield "memory"
    if memory.on_gpu:
        yield f"  a GPU     {_bytes(memory.gpu_bytes)} = {travels} + training {training}"
        yield f"  its host  {_bytes(memory.group_bytes)} = {on_host}"
    else:
        yield f"  a group   {_bytes(memory.group_bytes)} = {on_host} + training {training}"
    packed = travels if memory.is_packed else f"sums {sums}"
    yield f"  server    {_bytes(memory.server_bytes)} = {process}4 x model {model} + {packed}"
    data = "not known before they are prepared" if sketch.data_bytes is None else _bytes(sketch.data_bytes)
    yield f"  examples  {data}; mapped, and shared by the ranks of a node"


def _round(sketch: Sketch, volumes: Sequence[Volume]) -> Iterator[str]:
    num_clients, parameters = volumes[0].num_clients, sketch.outline.prices(FULL).parameters
    envelope = _mean(volume.parameters for volume in volumes)
    flops = _mean(volume.flops.sum() for volume in volumes)
    yield f"a round (mean of the first {len(volumes)}): {num_clients:,} clients x {flops / num_clients:.3g} FLOP"
    yield f"  envelope  {envelope:,.0f} of {parameters:,} parameters ({envelope / parameters:.0%})"
    yield f"  broadcast {_bytes(_mean(v.broadcast_bytes for v in volumes))} = 4 bytes an entry + the plan"
    reduced = _bytes(_mean(v.reduce_bytes for v in volumes))
    yield f"  reduce    {reduced} = 8 bytes an entry + {num_clients:,} reports"
    simulated = _bytes(_mean(volume.clients_bytes for volume in volumes))
    yield f"  simulated {simulated} to the clients, as much back"


def _seconds(
    cluster: Cluster, volumes: Sequence[Volume], duration: Duration, calibration: Calibration
) -> Iterator[str]:
    phases = duration.phases
    yield f"seconds of a round: {_mean(phase.round_s for phase in phases):.4g}"
    yield from _compute(cluster, volumes, _mean(phase.compute_s for phase in phases), calibration)
    yield from _communication(cluster, volumes, phases, calibration.exchange)
    yield f"  server        {_mean(phase.server_s for phase in phases):.4g}: derive, pack, divide, reorder"
    yield f"  checkpoint    {duration.checkpoint_s:.4g}, while the groups train"
    where = "by the groups, between rounds" if duration.by_groups else "by the server, while the groups train"
    yield f"  an evaluation {duration.evaluation_s:.4g}, {where}"


def _compute(cluster: Cluster, volumes: Sequence[Volume], makespan_s: float, calibration: Calibration) -> Iterator[str]:
    num_clients, rate, groups = volumes[0].num_clients, calibration.training_flops_per_s, cluster.num_groups
    flops, longest = (_mean(values) for values in zip(*((v.flops.sum(), v.flops.max()) for v in volumes), strict=True))
    base = _mean(base_s(volume, calibration) for volume in volumes)
    yield f"  compute       {makespan_s:.4g}: the schedule's makespan, which cannot be less than"
    yield (
        f"    dealt evenly  {(flops / rate + num_clients * base) / groups:.4g} = ({flops:.3g} FLOP / {rate:.3g} FLOP/s"
        f" + {num_clients:,} clients x {base:.3g} s) / {groups:,} groups"
    )
    yield f"    one client    {longest / rate + base:.4g} = {longest:.3g} FLOP / {rate:.3g} FLOP/s + {base:.3g} s"


def _communication(
    cluster: Cluster, volumes: Sequence[Volume], phases: Sequence[Phases], exchange: ExchangeSpeeds | None
) -> Iterator[str]:
    if exchange is None:
        yield f"  communication {_NOT_MEASURED}"
        return
    ranks, latency_s = cluster.num_ranks, exchange.latency_s
    yield f"  communication {_mean(phase.communication_s for phase in phases):.4g}, among {ranks:,} ranks"
    down = _mean(phase.broadcast_s or 0.0 for phase in phases), _mean(volume.broadcast_bytes for volume in volumes)
    up = _mean(phase.reduce_s or 0.0 for phase in phases), _mean(volume.reduce_bytes for volume in volumes)
    for name, (seconds, num_bytes), rate in (
        ("broadcast", down, exchange.broadcast_bytes_per_s),
        ("reduce", up, exchange.reduce_bytes_per_s),
    ):
        yield (
            f"    {name:<13} {seconds:.4g} = {depth(ranks)} levels x ({_bytes(num_bytes)} / {_bytes(rate)}/s"
            f" + {chunks_in_turn(round(num_bytes)):,} x {latency_s:.2g} s)"
        )


def _run(prediction: Prediction, duration: Duration) -> Iterator[str]:
    nodes, hours = prediction.cluster.num_nodes, duration.run_s / 3600
    yield f"seconds of the run: {duration.run_s:.4g}, its set-up not counted"
    each_s = duration.rounds_s / prediction.num_rounds
    yield f"  rounds        {duration.rounds_s:.4g} = {prediction.num_rounds:,} x {each_s:.4g}"
    yield f"  evaluations   {duration.between_s:.4g} between rounds"
    yield f"  the end       {duration.final_s:.4g}: the last checkpoint and evaluation"
    yield f"node-hours: {prediction.node_hours:.4g} = {nodes:,} nodes x {hours:.4g} h"


def _mean(values: Iterable[float]) -> float:
    return fmean(float(value) for value in values)


def _bytes(number: float) -> str:
    return quantity(number, "B")
