"""When clients can be reached: in turns, once a day, or as a file says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raffm_mpi.config import AlwaysAvailable, DailyAvailability, FileAvailability, OnOffAvailability
from raffm_mpi.devices.availability import DAY_S, Periodic, make_availability
from raffm_mpi.errors import UserMistake

NUM_CLIENTS = 1000


def share_on(availability, now_s) -> float:
    return float((availability.until(now_s) > now_s).mean())


def test_always_means_for_ever():
    always = make_availability(AlwaysAvailable(), 3, seed=0)
    assert always.until(5.0).tolist() == [np.inf] * 3
    assert always.next_s(5.0) == 5.0


def test_in_turns_by_hand():
    turns = Periodic(np.array([0.0, 6.0]), on_s=4.0, period_s=10.0)
    assert turns.until(0.0).tolist() == [4.0, 0.0]
    assert turns.until(7.0).tolist() == [7.0, 10.0]
    assert turns.until(23.0).tolist() == [24.0, 23.0]
    assert turns.next_s(3.0) == 3.0
    assert turns.next_s(4.5) == pytest.approx(6.0, abs=0.002)
    assert turns.until(turns.next_s(4.5)).tolist()[1] > 6.0


def test_clients_in_turns_are_on_for_their_share_at_any_time():
    turns = make_availability(OnOffAvailability(on_s=300, off_s=900), NUM_CLIENTS, seed=0)
    for now_s in (0.0, 1e3, 1e7):
        assert share_on(turns, now_s) == pytest.approx(0.25, abs=0.05)


def test_clients_of_one_night_are_on_at_night():
    nights = make_availability(DailyAvailability(on_s=8 * 3600, start_h=22, spread_h=1), NUM_CLIENTS, 0)
    for day in (0, 3):
        assert share_on(nights, day * DAY_S + 2 * 3600) > 0.99
        assert share_on(nights, day * DAY_S + 14 * 3600) < 0.01
        assert share_on(nights, day * DAY_S + 22 * 3600) == pytest.approx(0.5, abs=0.1)  # half of them have begun


@given(now_s=st.floats(0, 1e9), seed=st.integers(0, 5), kind=st.sampled_from([OnOffAvailability, DailyAvailability]))
def test_the_next_moment_is_one_at_which_somebody_can_be_reached(now_s, seed, kind):
    some = make_availability(kind(on_s=60.0), 3, seed)
    moment = some.next_s(now_s)
    assert moment >= now_s
    assert (some.until(moment) > moment).any()


def traces(tmp_path, text: str, num_clients: int = 4):
    path = tmp_path / "traces.csv"
    path.write_text(text)
    return make_availability(FileAvailability(path=str(path)), num_clients, seed=0)


def test_a_file_is_followed_and_repeats(tmp_path):
    found = traces(tmp_path, "trace,start_s,end_s\n0,0,10\n0,20,30\n1,5,40\n")
    assert found.until(0.0).tolist() == [10.0, 0.0, 10.0, 0.0]  # clients 2 and 3 follow traces 0 and 1
    assert found.until(25.0).tolist() == [30.0, 40.0, 30.0, 40.0]
    assert found.until(85.0).tolist() == [90.0, 120.0, 90.0, 120.0]  # 5 s into the third time
    assert found.next_s(85.0) == 85.0


def test_where_nobody_is_on_the_next_of_a_file_is_found_around_its_end(tmp_path):
    found = traces(tmp_path, "trace,start_s,end_s\n0,2,4\n1,8,10\n", num_clients=1)
    assert found.next_s(5.0) == pytest.approx(12.0, abs=0.002)
    assert found.until(found.next_s(5.0))[0] > 12.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trace,start_s\n0,1\n", "has no column end_s; needed are trace, start_s, end_s"),
        ("trace,start_s,end_s\n", "has no interval; needed are"),
        ("trace,start_s,end_s\n0,1,5\n0,9,7\n", "row 3 is 0,9,7; needed are numbers with 0 <= start_s < end_s"),
        ("trace,start_s,end_s\n0,-1,5\n", "row 2 is 0,-1,5; needed are numbers"),
        ("trace,start_s,end_s\n0,soon,5\n", "row 2 is 0,soon,5; needed are numbers"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UserMistake, match=rf"^devices\.availability\.path '.*traces\.csv'.{{1,2}}{sentence}"):
        traces(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserMistake, match=r"none\.csv' cannot be read: No such file"):
        make_availability(FileAvailability(path=str(tmp_path / "none.csv")), 2, seed=0)
