"""Longest processing time first, corrected by what was measured."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raffm_mpi.federation.schedule import Schedule


@given(st.lists(st.floats(1e9, 1e12), min_size=1, max_size=40), st.integers(1, 8))
def test_the_makespan_is_within_four_thirds_of_the_lower_bound(flops, num_groups):
    """Graham (1969): at most 4/3 of the optimum, which the mean load and the longest client bound from below."""
    schedule = Schedule(num_groups)
    schedule.base_s[:] = 0.0
    flops = np.array(flops)
    groups, busy_s = schedule.assign(flops)
    seconds = flops / schedule.flops_per_s[0]
    np.testing.assert_allclose(np.bincount(groups, weights=seconds, minlength=num_groups), busy_s)
    ordered = np.sort(seconds)[::-1]
    pair = ordered[num_groups - 1] + ordered[num_groups] if len(ordered) > num_groups else 0.0
    bound = max(seconds.sum() / num_groups, seconds.max(), pair)
    assert busy_s.max() <= 4 / 3 * bound * (1 + 1e-9)


def test_a_group_measured_twice_as_fast_gets_twice_the_work():
    schedule = Schedule(2)
    schedule.correct(0, flops=2e12, train_s=10.0, num_clients=4, overhead_s=0.0)
    schedule.correct(1, flops=1e12, train_s=10.0, num_clients=4, overhead_s=0.0)
    groups, busy_s = schedule.assign(np.full(30, 1e11))
    assert np.bincount(groups).tolist() == [20, 10]
    np.testing.assert_allclose(busy_s, 10.0)


def test_predictions_approach_what_is_measured():
    """A machine whose speed and fixed cost the schedule does not know: the error shrinks to nothing."""
    schedule, speed, base_s = Schedule(1), 3e9, 0.2
    errors = []
    for _ in range(6):
        flops = np.array([1e9, 2e9, 5e9])
        _, predicted_s = schedule.assign(flops)
        train_s = flops.sum() / speed
        errors.append(abs(predicted_s[0] - train_s - 3 * base_s))
        schedule.correct(0, flops.sum(), train_s, 3, 3 * base_s)
    assert errors[0] > 1
    assert errors[-1] < 1e-9


def test_a_group_without_clients_keeps_its_speed():
    schedule = Schedule(2)
    schedule.correct(1, flops=0.0, train_s=0.0, num_clients=0, overhead_s=0.0)
    assert schedule.flops_per_s[0] == schedule.flops_per_s[1]
