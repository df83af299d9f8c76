"""A comparison where runs nearly match: names, defaults, ranges, mistakes, figures of many groups, and equal rounds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from matplotlib.transforms import Bbox

from raffm_mpi.analysis.compare import compare, default_targets, draw
from raffm_mpi.analysis.comparison import SeedGroup, gather, read
from raffm_mpi.analysis.difference import difference
from raffm_mpi.analysis.style import STYLE, look
from raffm_mpi.analysis.tables import Column, Ratio, Shown, Table
from raffm_mpi.errors import UserMistake
from raffm_mpi.log import RunLog
from support.made_logs import write_run


@pytest.fixture
def with_round(monkeypatch):
    """``with_round(3, train_loss=9.0)``: logs that are written from now on have such a fourth round."""
    append = RunLog.append

    def change(round_: int, **values: float) -> None:
        def changed(log: RunLog, table: str, **columns):
            own = values if table == "rounds" and columns["round"] == round_ else {}
            append(log, table, **columns | own)

        monkeypatch.setattr(RunLog, "append", changed)

    return change


def last_line(one: Path, other: Path) -> str:
    return difference(one, other).splitlines()[-1]


def test_methods_on_other_data_have_it_in_their_names(tmp_path):
    paths = [
        write_run(tmp_path / method, "full", data={"path": path}, method={"name": method, "salience": method})
        for method, path in (("fedavg", "cifar10"), ("raffm", "cifar100"))
    ]
    assert [group.name for group in read(paths)] == ["fedavg, data.path=cifar10", "raffm, data.path=cifar100"]


def test_runs_of_other_tasks_are_refused(tmp_path, monkeypatch):
    one = write_run(tmp_path / "a", "one_round")
    create = RunLog.create

    def of_text(folder, **given):
        return create(folder, **given | {"attributes": given["attributes"] | {"task": "text_classification"}})

    monkeypatch.setattr(RunLog, "create", of_text)
    other = write_run(tmp_path / "b", "one_round", method={"name": "fedavg"})
    with pytest.raises(UserMistake, match=r"b' learns text_classification, '.*a' image_classification"):
        read([one, other])


def test_a_log_named_twice_is_one_run_and_a_sweep_must_say_where_its_runs_are(tmp_path):
    run = write_run(tmp_path / "run", "one_round")
    assert gather([run, run / "run.h5", tmp_path / "." / "run"]) == ([run], [])
    (tmp_path / "sweep.csv").write_text("folder,seed\nrun,0\n")
    with pytest.raises(UserMistake, match=r"sweep.csv' has no column 'run'; its columns are: folder, seed"):
        gather([tmp_path])


def test_every_run_reaches_the_default_target(tmp_path):
    """Also where 100 times a score is rounded up to a whole number that the score is short of."""
    (run,) = read([write_run(tmp_path, "one_round")])[0].runs
    for percent in range(1, 100):
        score = math.nextafter(percent / 100, 0)
        group = SeedGroup("raffm", (replace(run, curve=run.curve.assign(score=score)),))
        (target,) = default_targets([group])
        assert target <= score < target + 0.0101


def test_ratios_are_of_the_means_with_the_range_of_the_seeds():
    rows = [{"a": Ratio((2.0, 6.0), (2.0, 2.0))}, {"a": Ratio((3.0,), (2.0,))}, {"a": Ratio((), ())}]
    table = Table("t", "c", [Column("a", "times less")], rows)
    assert table.markdown().splitlines()[4:] == ["| 2.00 (1.00–3.00) |", "| 1.50 |", "| – |"]
    assert table.frame().iloc[0].tolist() == [2.0, 1.0, 3.0, 2]
    assert "2.00 (1.00--3.00)" in table.latex()


def test_ratios_leave_out_seeds_with_which_one_side_missed_the_target(tmp_path):
    """0.9 - 0.8 / r + gain >= 0.9 never without gain, and first at r = 16 with 0.05."""
    gains = {"fedavg": (0.0, 0.05), "raffm": (0.05, 0.1)}
    paths = [
        write_run(tmp_path / f"{name}{seed}", "full", gain=gain, seed=seed, method={"name": name})
        for name, both in gains.items()
        for seed, gain in enumerate(both)
    ]
    table = compare(paths, tmp_path / "out", targets=[0.9])[1].frame().set_index("group")
    assert table["reached"].tolist() == [1, 2]
    assert table.loc["raffm", "bytes_ratio_seeds"] == 1
    assert table.loc["raffm", "bytes_ratio"] == pytest.approx(16 / 8)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"targets": [80]}, "target 80 is more than accuracy can be, which is at most 1"),
        ({"targets": [math.nan]}, "target nan is not a number that a score can reach"),
        ({"budgets": [("bytes", math.nan)]}, "budget bytes=nan is not a number greater than 0"),
        ({"budgets": [("bytes", 0.0)]}, "budget bytes=0 is not a number greater than 0"),
        ({"budgets": [("virtual_s", 5.0)]}, r"budget virtual_s=5: the clients of '.*run' have no devices"),
        ({"split": "test"}, "no run has a score on test"),
    ],
)
def test_what_no_run_could_have_is_refused(tmp_path, asked, sentence):
    run = write_run(tmp_path / "run", "one_round")
    with pytest.raises(UserMistake, match=sentence):
        compare([run], tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_the_same_runs_give_the_same_bytes(tmp_path):
    paths = [write_run(tmp_path / str(seed), "full", seed=seed, gain=seed / 100) for seed in range(2)]
    for out in ("a", "b"):
        compare(paths, tmp_path / out)
    written = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}


def test_long_names_stay_within_the_figure(tmp_path):
    paths = [
        write_run(
            tmp_path / str(number), "one_round", method={"name": "raffm"} | dict.fromkeys("abcdef", number + 0.1**9)
        )
        for number in range(6)
    ]
    with matplotlib.rc_context(STYLE):
        figure = draw(read(paths), "bytes")
        figure.draw_without_rendering()
        (legend,), (axes,) = figure.legends, figure.axes
        assert legend.get_window_extent().x1 <= figure.bbox.x1
        assert not Bbox.intersection(legend.get_window_extent(), axes.get_window_extent())
        assert axes.get_window_extent().height > figure.dpi * 2  # inches


def test_what_is_special_in_markdown_and_latex_is_escaped():
    rows = [{"a": Shown("a|b", "a|b")}]
    table = Table("t", r"\ ~ ^ #", [Column("a", "head")], rows)
    assert table.markdown().splitlines()[4] == r"| a\|b |"
    assert r"\caption{\textbackslash{} \textasciitilde{} \textasciicircum{} \#}" in table.latex()


def test_a_round_without_a_loss_is_the_same_as_another(tmp_path, with_round):
    with_round(3, train_loss=math.nan)
    one, other = (write_run(tmp_path / name, "full") for name in "ab")
    assert last_line(one, other) == "The same losses, bytes and models in all 20 rounds that both have."
    with_round(3, train_loss=9.0)
    assert "up to round 3; they differ from round 4" in last_line(one, write_run(tmp_path / "c", "full"))


@pytest.mark.parametrize("name", ["train_loss", "bytes_down", "bytes_up"])
def test_rounds_are_told_apart_by_loss_and_both_ways_of_traffic(tmp_path, with_round, name):
    one = write_run(tmp_path / "a", "full")
    with_round(5, **{name: 7})
    assert "up to round 5; they differ from round 6" in last_line(one, write_run(tmp_path / "b", "full"))


def test_runs_without_a_round_in_common_are_said_to_be(tmp_path):
    one, other = write_run(tmp_path / "a", "one_round"), write_run(tmp_path / "b", "no_rounds", data={"path": "a|b"})
    assert last_line(one, other) == "They have no round in common."
    assert r"| data.path | cifar10 | a\|b |" in difference(one, other)


def test_sixty_groups_look_different():
    looks = [tuple(map(str, look(number).values())) for number in range(60)]
    assert len(set(looks)) == 60
