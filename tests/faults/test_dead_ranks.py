"""A rank that dies is survived under ULFM: the round ends without it, with the same bits."""

from __future__ import annotations

import pytest

from raffm_mpi.log import check_log, open_run

slow = pytest.mark.slow
PHASES = [
    pytest.param("plan", marks=slow),
    pytest.param("broadcast", marks=slow),
    "training",
    "reduce",
    pytest.param("commit", marks=slow),
    "evaluation",
]


@pytest.mark.parametrize("phase", PHASES)
def test_each_rank_may_die_in_any_phase_one_round_after_the_other_down_to_the_server_alone(
    killed, assert_undisturbed, deaths, tmp_path, phase
):
    placement = ["evaluation.placement=groups"] if phase == "evaluation" else []
    result = killed(4, f"2:{phase}:1 1:{phase}:2 3:{phase}:4", *placement)
    assert result.returncode == 0, result.stderr
    assert_undisturbed(tmp_path / "run")
    assert deaths(tmp_path / "run") == [2, 1, 3]


@slow
def test_two_ranks_may_die_at_once(killed, assert_undisturbed, deaths, tmp_path):
    result = killed(4, "1:commit:1 3:commit:1 2:training:4")
    assert result.returncode == 0, result.stderr
    assert_undisturbed(tmp_path / "run")
    assert sorted(deaths(tmp_path / "run")) == [1, 2, 3]


def test_all_but_the_server_may_die_at_once(killed, assert_undisturbed, deaths, tmp_path):
    result = killed(4, "1:commit:2 2:commit:2 3:commit:2")
    assert result.returncode == 0, result.stderr
    assert_undisturbed(tmp_path / "run")
    assert sorted(deaths(tmp_path / "run")) == [1, 2, 3]
    assert "if a client group dies, the others take over" in result.stderr


@slow
def test_groups_that_have_lost_one_end_when_the_server_dies_and_the_run_goes_on(killed, assert_undisturbed, tmp_path):
    result = killed(4, "1:commit:1 0:commit:3")
    assert result.returncode == 75, result.stderr
    assert "rank 0" in result.stderr and "start it again with --resume" in result.stderr
    result = killed(2, "", "--resume")
    assert result.returncode == 0, result.stderr
    assert_undisturbed(tmp_path / "run")


@slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_that_dies_in_the_set_up_ends_the_start_with_the_status_that_asks_for_another(killed, ranks):
    result = killed(ranks, "1:set-up:-1")
    assert result.returncode == 75, result.stderr
    assert "start it again with --resume" in result.stderr


@slow
def test_a_run_stopped_within_a_round_goes_on_with_fewer_groups(killed, assert_undisturbed, tmp_path):
    result = killed(4, "3:training:2:SIGUSR1")
    assert result.returncode == 75, result.stderr
    assert "stopped after 2 of 6 rounds and" in result.stderr
    result = killed(2, "", "--resume")
    assert result.returncode == 0, result.stderr
    assert_undisturbed(tmp_path / "run")
    with open_run(tmp_path / "run") as run:
        assert run.groups["rank"].max() < 4 and (run.groups["rank"] == -1).any()
        assert check_log(tmp_path / "run") == []
