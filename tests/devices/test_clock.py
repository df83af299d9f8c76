"""The virtual clock: hand-computed rounds, and what must hold of any round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raffm_mpi.config import AlwaysAvailable, DeviceSettings
from raffm_mpi.devices import Fleet, Profile, Work, simulate
from raffm_mpi.devices.availability import Availability, make_availability

SLOW = Profile(
    memory_bytes=1e9,
    flops_per_s=10.0,
    downlink_bytes_per_s=4.0,
    uplink_bytes_per_s=2.0,
    compute_w=5.0,
    transfer_w=3.0,
    idle_w=1.0,
)
FAST = SLOW.model_copy(update={"flops_per_s": 100.0, "compute_w": 50.0, "idle_w": 8.0})


class Until(Availability):
    """Clients that go away at given moments."""

    def __init__(self, moments) -> None:
        self.moments = np.array(moments, float)

    def until(self, now_s):
        return self.moments

    def next_s(self, now_s):
        return now_s


def fleet(devices, *, until=None, **settings) -> Fleet:
    chosen = DeviceSettings(population={"raspberry_pi_4": 1.0}, **settings)
    availability = Until(until) if until else make_availability(AlwaysAvailable(), len(devices), 0)
    return Fleet(chosen, {"slow": SLOW, "fast": FAST}, np.array(devices, np.int16), availability, seed=0)


def work(flops, *, able=None) -> Work:
    size = len(flops)
    bytes_each = np.full(size, 8, np.int64)  # 2 s down, 4 s up
    return Work(bytes_each, np.array(flops, float), bytes_each, np.array(able if able else [True] * size))


def run(fleet, work, wanted=None, start_s=0.0):
    cohort = np.arange(len(work.flops))
    return simulate(fleet, cohort, work, len(cohort) if wanted is None else wanted, start_s, round_number=0)


def test_two_clients_by_hand():
    virtual = run(fleet([0, 1]), work([100.0, 100.0]))  # 2 + 10 + 4 s and 2 + 1 + 4 s
    assert virtual.status.tolist() == ["trained", "trained"]
    assert virtual.seconds == 16.0
    assert virtual.download_s.tolist() == [2, 2]
    assert virtual.train_s.tolist() == [10, 1]
    assert virtual.upload_s.tolist() == [4, 4]
    assert virtual.wait_s.tolist() == [0, 9]
    assert virtual.energy_j.tolist() == [5 * 10 + 3 * 6, 50 * 1 + 3 * 6 + 8 * 9]
    assert virtual.bytes_down.tolist() == virtual.bytes_up.tolist() == [8, 8]


def test_a_late_client_stops_at_the_deadline_and_the_round_with_it():
    virtual = run(fleet([0, 1], deadline_s=12.0), work([100.0, 100.0]))
    assert virtual.status.tolist() == ["late", "trained"]
    assert virtual.seconds == 12.0
    assert (virtual.train_s[0], virtual.upload_s[0], virtual.wait_s[0]) == (10.0, 0.0, 0.0)
    assert (virtual.bytes_down[0], virtual.bytes_up[0], virtual.flops[0]) == (8, 0, 100.0)
    assert virtual.wait_s[1] == 5.0
    assert virtual.away.tolist() == [0]


def test_who_is_ready_at_the_deadline_is_in_time():
    virtual = run(fleet([0, 1], deadline_s=16.0), work([100.0, 100.0]))
    assert virtual.status.tolist() == ["trained", "trained"]
    assert virtual.seconds == 16.0


def test_dropouts_have_their_probability_and_are_drawn_anew_for_each_round_and_attempt():
    own, asked = fleet([1] * 400, dropout=0.3), work([100.0] * 400)
    gone = [
        tuple(simulate(own, np.arange(400), asked, 400, 0.0, number, attempt).status == "gone")
        for number, attempt in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert gone[0] == gone[1]
    assert len(set(gone)) == 3
    assert all(np.mean(fates) == pytest.approx(0.3, abs=0.08) for fates in gone)


def test_a_client_that_is_late_in_its_upload_has_moved_a_part_of_it():
    virtual = run(fleet([0], deadline_s=13.0), work([100.0]))
    assert (virtual.upload_s[0], virtual.bytes_up[0]) == (1.0, 2)


def test_of_more_clients_than_are_needed_the_first_count_and_the_others_stop():
    virtual = run(fleet([0, 1, 1]), work([100.0, 100.0, 200.0]), wanted=2)  # ready after 16, 7, 8 s
    assert virtual.status.tolist() == ["surplus", "trained", "trained"]
    assert virtual.seconds == 8.0
    assert (virtual.download_s[0], virtual.train_s[0]) == (2.0, 6.0)
    assert virtual.flops[0] == pytest.approx(60.0)
    assert virtual.wait_s.tolist() == [0, 1, 0]


def test_of_equally_fast_clients_the_earlier_in_the_cohort_counts():
    assert run(fleet([1, 1, 1]), work([1.0] * 3), wanted=2).status.tolist() == ["trained", "trained", "surplus"]


def test_a_client_that_can_no_longer_be_reached_is_gone_and_nobody_waits_for_it():
    virtual = run(fleet([0, 1], until=[105.0, np.inf]), work([100.0, 100.0]), start_s=100.0)
    assert virtual.status.tolist() == ["gone", "trained"]
    assert virtual.seconds == 7.0
    assert (virtual.download_s[0], virtual.train_s[0], virtual.wait_s[0]) == (2.0, 3.0, 0.0)
    assert virtual.energy_j[0] == 3 * 2 + 5 * 3


def test_a_round_ends_when_its_last_client_has_gone():
    virtual = run(fleet([0, 1], until=[9.0, np.inf]), work([100.0, 100.0]))
    assert virtual.seconds == 9.0
    assert virtual.wait_s[1] == 2.0


def test_who_goes_after_the_deadline_is_late():
    assert run(fleet([0], until=[13.0], deadline_s=12.0), work([100.0])).status.tolist() == ["late"]


def test_a_client_that_cannot_hold_its_sub_model_sits_out_at_no_cost():
    virtual = run(fleet([0, 1]), work([100.0, 100.0], able=[False, True]))
    assert virtual.status.tolist() == ["unable", "trained"]
    assert virtual.seconds == 7.0
    for name in ("download_s", "train_s", "upload_s", "wait_s", "energy_j", "bytes_down", "bytes_up", "flops"):
        assert getattr(virtual, name)[0] == 0


def test_a_round_in_which_nobody_can_take_part_takes_no_time():
    virtual = run(fleet([0, 0], deadline_s=5.0), work([1.0, 1.0], able=[False, False]))
    assert virtual.seconds == 0.0
    assert virtual.away.tolist() == [0, 1]


def test_dropouts_come_as_often_as_asked_and_by_seed_and_round():
    many = fleet([1] * 2000, dropout=0.3)
    rounds = [simulate(many, np.arange(2000), work([100.0] * 2000), 2000, 0.0, number) for number in (0, 0, 1)]
    shares = [(virtual.status == "gone").mean() for virtual in rounds]
    assert shares[0] == pytest.approx(0.3, abs=0.04)
    assert (rounds[0].status == rounds[1].status).all()
    assert (rounds[0].status != rounds[2].status).any()


@given(
    flops=st.lists(st.floats(0, 1e4), min_size=1, max_size=8),
    deadline=st.none() | st.floats(0.1, 200),
    dropout=st.sampled_from([0.0, 0.5]),
    wanted=st.integers(1, 8),
    data=st.data(),
)
def test_in_any_round_time_bytes_and_energy_are_conserved(flops, deadline, dropout, wanted, data):
    size = len(flops)
    devices = data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    able = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    until = data.draw(st.lists(st.floats(0.1, 300) | st.just(np.inf), min_size=size, max_size=size))
    own, asked = fleet(devices, deadline_s=deadline, dropout=dropout, until=until), work(flops, able=able)
    wanted = min(wanted, size)
    virtual = run(own, asked, wanted)
    busy = virtual.download_s + virtual.train_s + virtual.upload_s
    trained, gone = virtual.status == "trained", virtual.status == "gone"
    assert trained.sum() <= wanted
    assert ((virtual.status == "unable") == ~asked.able).all()
    # A client is busy, then waits, until the round ends or it goes.
    stays = asked.able & ~gone
    assert busy[stays] + virtual.wait_s[stays] == pytest.approx(virtual.seconds, rel=1e-9, abs=1e-9)
    assert (busy <= virtual.seconds * (1 + 1e-12) + 1e-12).all()
    assert virtual.seconds <= own.deadline_s
    watts = {name: own.numbers(name, np.arange(size)) for name in ("compute_w", "transfer_w", "idle_w")}
    energy = watts["compute_w"] * virtual.train_s + watts["transfer_w"] * (virtual.download_s + virtual.upload_s)
    assert virtual.energy_j == pytest.approx(energy + watts["idle_w"] * virtual.wait_s)
    for moved, whole in ((virtual.bytes_down, asked.bytes_down), (virtual.bytes_up, asked.bytes_up)):
        assert (moved[trained] == whole[trained]).all()
        assert ((moved >= 0) & (moved <= whole)).all()
    assert (virtual.flops[trained] == asked.flops[trained]).all()
    # Whoever did not come in time was not ready: no faster client was passed over.
    ready = asked.bytes_down / 4 + asked.flops / own.numbers("flops_per_s", np.arange(size)) + asked.bytes_up / 2
    assert not dropout or trained.sum() <= size
    if trained.any() and not dropout:
        over = virtual.status == "surplus"
        assert (ready[over] >= ready[trained].max() * (1 - 1e-12)).all() or (np.array(until)[over] <= ready[over]).any()


def test_the_order_of_the_cohort_changes_nothing_but_ties():
    own, asked = fleet([0, 1, 1, 0], deadline_s=30.0), work([100.0, 50.0, 20.0, 300.0])
    order = np.array([2, 0, 3, 1])
    there = simulate(own, np.arange(4), asked, 3, 0.0, 0)
    shuffled = replace(
        asked,
        **{name: getattr(asked, name)[order] for name in ("bytes_down", "flops", "bytes_up", "able")},
    )
    here = simulate(own, order, shuffled, 3, 0.0, 0)
    assert here.status.tolist() == there.status[order].tolist()
    assert here.energy_j.tolist() == there.energy_j[order].tolist()
