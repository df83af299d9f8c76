"""A run is followed to its end, on a terminal and in a pipe, from its first round or before it."""

from __future__ import annotations

import io
import os
import threading
import time

import pytest
from rich.console import Console

from raffm_mpi.analysis.watch import lines, screen, state, watch
from raffm_mpi.errors import UserMistake
from raffm_mpi.log import RunLog, open_run
from support.made_logs import config, create, write_round, write_run
from support.waiting import TIMEOUT_S, wait_until


def shown(folder, terminal: bool = True) -> str:
    """What a terminal shows of a run."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=110, color_system=None)
    with open_run(folder) as run:
        console.print(screen(run))
    return console.file.getvalue()


def begin(folder) -> RunLog:
    """The log of a run under way, with its first round."""
    log = create(folder, "accuracy", [], config())
    write_round(log, 0)
    return log


def test_the_screen_has_rounds_scores_groups_and_events(tmp_path):
    text = shown(write_run(tmp_path, "devices"))
    assert "raffm on vit-base-patch16-224" in text
    assert "finished: 20 of 20 rounds, 1 min 0 s" in text
    assert "validation accuracy 86.00 % after round 20" in text
    assert "▁" in text and "█" in text
    assert "n1 cpu" in text and "500 ms" in text  # where a group is, and how long it waited
    assert text.count("client <b>3</b> is gone") == 5
    assert "10 s    50 J" in text  # what each round took the devices
    assert "\n   13  " in text and "\n   12  " not in text  # the last eight


def test_without_devices_nothing_is_simulated_but_traffic(tmp_path):
    text = shown(write_run(tmp_path, "full"))
    assert "energy" not in text and "simulated" not in text


@pytest.mark.parametrize("kind", ["one_round", "no_evaluation", "no_rounds"])
def test_unfinished_runs_can_be_looked_at(tmp_path, kind):
    folder = write_run(tmp_path, kind)
    assert {"one_round": "interrupted", "no_evaluation": "failed", "no_rounds": "running"}[kind] in shown(folder)


def test_a_pipe_gets_a_plain_line_a_round_and_the_state(tmp_path, capsys):
    watch(write_run(tmp_path, "full"), every_s=0.1)
    *rounds, last = capsys.readouterr().out.splitlines()
    assert len(rounds) == 20
    assert rounds[3] == "round 4/20: train loss 0.5000, 1 of 1 clients, 3 kB, 3 s, validation accuracy 70.00 %"
    assert last == "finished: 20 of 20 rounds, 1 min 0 s"
    assert not any("\x1b" in line for line in rounds)


def test_a_run_is_waited_for_and_followed_to_its_end(tmp_path, capsys):
    folder = tmp_path / "run"
    follower = threading.Thread(target=watch, args=(folder, 0.1), daemon=True)
    follower.start()
    printed = ""

    def says(text: str) -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return text in printed

    wait_until(lambda: says("waiting for a run in"), "it waits")
    log = begin(folder)
    for number in (1, 2):
        wait_until(lambda number=number: says(f"round {number}/20"), f"round {number} is printed")
        write_round(log, number)
    log.finish("interrupted")
    follower.join(timeout=TIMEOUT_S)
    assert not follower.is_alive()
    printed += capsys.readouterr().out
    assert printed.startswith("waiting for a run in")
    assert [printed.count(f"round {number}/20") for number in (1, 2, 3)] == [1, 1, 1]
    assert printed.rstrip().endswith("interrupted: 3 of 20 rounds, 9 s")


def test_what_is_left_and_a_silence_are_told(tmp_path):
    log = begin(tmp_path)
    with open_run(tmp_path) as run:
        assert state(run) == "running: 1 of 20 rounds, 3 s, some 57 s left"
        assert lines(run)[-1] == state(run)
        assert lines(run, shown=1) == []
    log.abandon()
    past = time.time() - 600
    os.utime(tmp_path / "run.h5", (past, past))
    with open_run(tmp_path) as run:
        assert state(run).endswith("left; quiet for 10 min 0 s")


def test_one_look_at_what_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(UserMistake, match="does not exist"):
        watch(tmp_path / "nowhere", once=True)
