"""The prediction's arithmetic, by cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raffm_mpi.errors import UserMistake
from raffm_mpi.federation.plan import cohort
from raffm_mpi.federation.schedule import Schedule
from raffm_mpi.forecast.lines import lines
from raffm_mpi.forecast.needs import (
    Cluster,
    Memory,
    Phases,
    Volume,
    base_s,
    derive_round,
    makespan_s,
    phases_of,
    predict,
    transfer_s,
    volume,
)
from raffm_mpi.forecast.sketch import sketch

MIB = 1 << 20

# Three clients of 1,000 bytes each; an envelope of 400 bytes, and so 800 of sums.
VOLUME = Volume(
    num_clients=3,
    parameters=90,
    entries=100,
    is_packed=True,
    plan_bytes=100,
    envelope_bytes=400,
    sums_bytes=800,
    reports_bytes=200,
    clients_bytes=3000,
    flops=np.array([4e9, 2e9, 2e9]),
)


@pytest.mark.parametrize(
    ("num_bytes", "ranks", "expected"),
    [
        (0, 2, 0.0),
        (1, 2, 0.5 + 1 / MIB),  # one chunk, one level
        (32 * MIB, 2, 2 * 0.5 + 32),  # eight chunks of 4 MiB, four under way
        (32 * MIB, 3, 2 * (2 * 0.5 + 32)),  # two levels
        (32 * MIB, 4, 2 * (2 * 0.5 + 32)),
        (32 * MIB, 5, 3 * (2 * 0.5 + 32)),
        (32 * MIB, 1025, 11 * (2 * 0.5 + 32)),
    ],
)
def test_a_transfer_takes_a_latency_for_chunks_in_turn_and_its_bytes_on_each_level(num_bytes, ranks, expected):
    assert transfer_s(num_bytes, ranks, 0.5, MIB) == pytest.approx(expected)


def test_the_phases_of_a_round_worked_out_by_hand(calibration):
    phases = phases_of(VOLUME, Cluster(1, 2), calibration)
    # A client costs 0.5 s and 1,000 bytes / (1,000 bytes/s); one group trains 4 GFLOP, the other 2 + 2.
    assert base_s(VOLUME, calibration) == 1.5
    assert phases.compute_s == pytest.approx(2 + 2 + 2 * 1.5)
    # Three ranks are two levels; each transfer is one chunk: 0.125 s.
    assert phases.broadcast_s == pytest.approx(2 * (0.125 + 100 / 4000) + 2 * (0.125 + 400 / 4000))
    assert phases.reduce_s == pytest.approx(2 * (0.125 + 800 / 2000) + 2 * (0.125 + 200 / 2000))
    # Packing 400 bytes, dividing 800, and three clients derived twice and counted once.
    assert phases.server_s == pytest.approx(400 / 4000 + 800 / 8000 + 3 * (2 * 0.25 + 0.5))
    assert phases.round_s == pytest.approx(phases.compute_s + phases.broadcast_s + phases.reduce_s + phases.server_s)


def test_a_whole_envelope_is_sent_as_it_lies(calibration):
    whole, part = (phases_of(replace(VOLUME, is_packed=packed), Cluster(1, 2), calibration) for packed in (False, True))
    assert part.server_s - whole.server_s == pytest.approx(400 / 4000)


def test_what_is_done_beside_the_training_counts_where_it_takes_longer():
    phases = Phases(compute_s=5.0, broadcast_s=1.0, reduce_s=2.0, server_s=0.5)
    assert phases.round_s == 8.5
    assert replace(phases, aside_s=4.0).round_s == 8.5
    assert replace(phases, aside_s=7.0).round_s == 10.5


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e8, 1e11), min_size=1, max_size=30), st.integers(1, 8))
def test_the_makespan_is_the_schedules_at_the_calibrated_speed(calibration, flops, num_groups):
    dealt = replace(VOLUME, num_clients=len(flops), flops=np.array(flops))
    schedule = Schedule(num_groups)
    for group in range(num_groups):  # a group that measured this speed and cost
        schedule.correct(group, 1e9, 1.0, 1, base_s(dealt, calibration))
    assert makespan_s(dealt, num_groups, calibration) == schedule.assign(dealt.flops)[1].max()


def test_a_run_is_its_rounds_its_evaluations_and_its_end(planned, calibration):
    chosen = planned(federation={"num_clients": 12, "participation": 0.5, "num_rounds": 25}, evaluation={"every": 4})
    prediction = predict(sketch(chosen), Cluster(5, 2), calibration)
    duration = prediction.duration
    assert duration.by_groups  # two cores are fewer than three ranks need
    assert len(duration.phases) == 10
    # The first ten rounds stand for the others; the first has no checkpoint beside it.
    first, *others = (phase.round_s for phase in duration.phases)
    assert duration.phases[0].aside_s == 0 and duration.phases[1].aside_s == duration.checkpoint_s
    assert duration.rounds_s == pytest.approx(2 * (first + sum(others)) + first + sum(others[:4]))
    assert duration.between_s == pytest.approx(6 * duration.evaluation_s)  # after rounds 3, 7, … 23
    assert duration.run_s == pytest.approx(duration.rounds_s + duration.between_s + duration.final_s)
    assert prediction.node_hours == pytest.approx(5 * duration.run_s / 3600)


def test_a_server_with_a_core_of_its_own_evaluates_beside_the_training(planned, calibration):
    free = calibration.model_copy(update={"cores": 3})
    duration = predict(sketch(planned(evaluation={"every": 1})), Cluster(1, 2), free).duration
    assert not duration.by_groups and duration.between_s == 0
    assert duration.phases[1].aside_s == pytest.approx(duration.checkpoint_s + duration.evaluation_s)
    # 144 examples are held out of 1,438; the speed is 2 GFLOP/s.
    outline = sketch(planned()).outline
    assert duration.evaluation_s == pytest.approx(144 * outline.prices({}).forward_flops / 2e9)
    on_gpus = free.model_copy(update={"device": "cuda", "cores": 64})
    assert predict(sketch(planned()), Cluster(1, 2), on_gpus).duration.by_groups  # the server's GPU is a group's, too


def test_more_groups_never_take_longer_to_compute(planned, calibration):
    drawn = volume(derive_round(sketch(planned()), 0))
    seconds = [makespan_s(drawn, groups, calibration) for groups in (1, 2, 3, 6, 12)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] == pytest.approx(drawn.flops.max() / 1e9 + base_s(drawn, calibration))


def test_memory_grows_with_the_widths(planned):
    def needed(budget: float) -> Memory:
        method = {
            "name": "raffm",
            "budget": {"kind": "drawn", "shares": [budget]},
            "space": {"ffn": [0.25, 0.5, 0.75, 1.0]},
        }
        return predict(sketch(planned(method=method, compute={"device": "cuda"})), Cluster(1, 1)).memory

    memories = [needed(budget) for budget in (0.7, 0.8, 0.9, 1.0)]
    for name in ("gpu_bytes", "group_bytes", "envelope_bytes", "sums_bytes", "training_bytes"):
        values = [getattr(memory, name) for memory in memories]
        assert values == sorted(set(values)), name
    assert all(memory.sums_bytes == 2 * memory.envelope_bytes for memory in memories)
    assert memories[-1].envelope_bytes == memories[-1].model_bytes


def test_memory_adds_up_by_hand():
    memory = Memory(
        model_bytes=100, envelope_bytes=80, sums_bytes=160, training_bytes=500, process_bytes=1000, on_gpu=True
    )
    assert (memory.gpu_bytes, memory.group_bytes) == (740, 1340)
    assert memory.server_bytes == 1000 + 400 + 80 + 160
    on_cpu = replace(memory, on_gpu=False)
    assert (on_cpu.gpu_bytes, on_cpu.group_bytes) == (0, 1840)
    assert replace(memory, envelope_bytes=100).server_bytes == 1000 + 400 + 160  # the model is sent as it lies


def test_shares_are_equal_where_nothing_is_prepared(planned):
    sketched = sketch(planned())
    assert sketched.data_bytes is None
    assert sketched.num_rows == {"train": 1293, "validation": 144, "test": 360}
    sizes = sketched.outline.partition.sizes
    assert sizes.sum() == 1293 and set(sizes) == {107, 108}
    assert "107.8 examples for every client are assumed" in sketched.assumed[0]


def test_shots_of_every_class_are_known_without_preparing(planned):
    sketched = sketch(planned(data={"partition": {"kind": "k_shot", "shots": 3, "replacement": True}}))
    assert set(sketched.outline.partition.sizes) == {30}


def test_the_clients_of_a_column_must_be_known(planned):
    column = {"kind": "by_column", "column": "label"}
    with pytest.raises(UserMistake, match=r"federation\.num_clients is missing: .* prepared"):
        sketch(planned(data={"partition": column}, federation={"num_rounds": 1}))


def test_cohorts_are_keyed_by_round_and_attempt(planned):
    chosen = planned()
    cohorts = [tuple(cohort(chosen, 1000, *key)) for key in ((0,), (1,), (0, 1), (0, 2))]
    assert len(set(cohorts)) == 4
    assert all(len(set(drawn)) == 500 for drawn in cohorts)
    assert tuple(cohort(chosen, 1000, 0, 0)) == cohorts[0]


def test_the_lines_say_what_does_not_fit(planned, calibration):
    sketched, cluster = sketch(planned(compute={"threads_per_group": 2})), Cluster(3, 4)
    text = "\n".join(lines(sketched, predict(sketched, cluster, calibration), calibration))
    for part in (
        "3 nodes x 4 groups = 12 client groups",
        "the calibration is of a model of 1,000 parameters",
        "the calibration is of compute.threads_per_group 1, this forecast has 2",
        "the calibration is of groups a node 2, this forecast has 4",
        "measured between 3 ranks of one node",
        "are assumed",
    ):
        assert part in text
    alone = calibration.model_copy(update={"exchange": None})
    text = "\n".join(lines(sketched, predict(sketched, cluster, alone), alone))
    assert "communication not measured" in text
    text = "\n".join(lines(sketched, predict(sketched, cluster), None))
    assert "none without --calibration" in text


@pytest.mark.parametrize(("nodes", "groups", "option"), [(0, 1, "--nodes: 0"), (2, -1, "--gpus-per-node: -1")])
def test_a_cluster_of_nothing_is_refused(nodes, groups, option):
    with pytest.raises(UserMistake, match=f"{option} is not allowed; allowed are whole numbers from 1"):
        Cluster(nodes, groups)
