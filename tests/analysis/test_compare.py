"""A comparison: hand-computed means, intervals and ratios; groups that differ in more than their seed; its mistakes."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from raffm_mpi.analysis.compare import compare, draw, mean_curve
from raffm_mpi.analysis.comparison import gather, read
from raffm_mpi.analysis.difference import difference
from raffm_mpi.analysis.tables import Column, Estimate, Table
from raffm_mpi.cli import app
from raffm_mpi.errors import UserMistake
from support.made_logs import config, global_accuracy, write_run

GAINS = (0.0, 0.01, 0.05)  # of the seeds


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two methods of three seeds each; the second is 0.05 better throughout."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / f"{name}-{seed}", "devices", gain=gain + better, seed=seed, method={"name": name})
        for name, better in (("fedavg", 0.0), ("raffm", 0.05))
        for seed, gain in enumerate(GAINS)
    ]


def command(*words: object, capsys=None) -> tuple[int, str, str]:
    """Exit status, output and errors of ``raffm-mpi compare``."""
    status = 0
    try:
        app(["compare", *map(str, words)], standalone_mode=False)
    except SystemExit as ending:
        status = int(ending.code)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_an_estimate_is_the_mean_and_students_interval():
    estimate = Estimate((1.0, 2.0, 6.0))
    assert estimate.mean == 3.0
    assert estimate.half == pytest.approx(4.302653 * math.sqrt(7) / math.sqrt(3), rel=1e-6)  # t of two degrees
    assert math.isnan(Estimate((1.0,)).half)
    assert math.isnan(Estimate(()).mean)


def test_seeds_make_a_group_and_methods_name_it(runs):
    groups = read(list(reversed(runs)))
    assert [group.name for group in groups] == ["raffm", "fedavg"]  # in order of appearance
    assert all([run.seed for run in group.runs] == [0, 1, 2] for group in groups)


def test_what_differs_within_a_method_is_in_the_name(tmp_path):
    settings = [{"name": "raffm", "salience": rule} for rule in ("all", "none")] + [{"name": "fedavg"}]
    paths = [write_run(tmp_path / str(number), "full", method=method) for number, method in enumerate(settings)]
    names = [group.name for group in read(paths)]
    assert names == ["raffm, method.salience=all", "raffm, method.salience=none", "fedavg"]
    assert [group.name for group in read(paths[:2])] == ["method.salience=all", "method.salience=none"]
    assert [group.name for group in read(paths[:1])] == ["raffm"]


def test_outcomes_are_those_of_the_logs(runs, tmp_path):
    table = compare(runs, tmp_path, split="test")[0].frame().set_index("group")
    expected = Estimate(tuple(global_accuracy(19, "test") + gain for gain in GAINS))
    assert table.loc["fedavg", "score"] == pytest.approx(expected.mean)
    assert table.loc["fedavg", "score_interval"] == pytest.approx(expected.half)
    assert table.loc["raffm", "score"] == pytest.approx(expected.mean + 0.05)
    assert table.loc["fedavg", "smallest_score"] == pytest.approx(0.5 + np.mean(GAINS))
    assert table.loc["fedavg", "smallest_share"] == pytest.approx(30 / 86)
    assert table.loc["fedavg", ["bytes", "flops", "virtual_s", "energy_j"]].tolist() == [60_000, 1.6e8, 200, 1000]
    assert pd.read_csv(tmp_path / "outcomes.csv").set_index("group").loc["raffm", "seeds"] == 3


def test_costs_to_a_target_and_ratios_by_hand(runs, tmp_path):
    """0.9 - 0.8 / r + gain >= 0.85 first at r = 16, 14 and 8; with 0.05 more at r = 8, 8 and 6 (rounding up)."""
    target = 0.85
    rounds = [math.ceil(0.8 / (0.9 + gain - target) - 1e-9) for gain in GAINS]
    better = [math.ceil(0.8 / (0.95 + gain - target) - 1e-9) for gain in GAINS]
    table = compare(runs, tmp_path, targets=[target])[1].frame().set_index("group")
    assert table.loc["fedavg", "num_rounds"] == pytest.approx(np.mean(rounds))
    assert table.loc["raffm", "num_rounds"] == pytest.approx(np.mean(better))
    assert table.loc["raffm", "bytes"] == pytest.approx(3000 * np.mean(better))
    assert table.loc["raffm", "bytes_ratio"] == pytest.approx(np.sum(rounds) / np.sum(better))
    assert table.loc["raffm", ["bytes_ratio_low", "bytes_ratio_high"]].tolist() == pytest.approx(
        [min(np.divide(rounds, better)), max(np.divide(rounds, better))]
    )
    assert table.loc["fedavg", "bytes_ratio"] == 1
    against = compare(runs, tmp_path, targets=[target], against="raffm")[1].frame().set_index("group")
    assert against.loc["fedavg", "bytes_ratio"] == pytest.approx(np.sum(better) / np.sum(rounds))


def test_seeds_that_miss_a_target_are_counted_and_leave_the_mean_alone(runs, tmp_path):
    targets = compare(runs, tmp_path, targets=[0.9, 0.99])[1]
    table = targets.frame()
    assert [row["reached"].text for row in targets.rows] == ["1 of 3", "3 of 3", "0 of 3", "0 of 3"]
    assert table["reached"].tolist() == [1, 3, 0, 0]
    assert table["num_rounds"].iloc[0] == math.ceil(0.8 / 0.05 - 1e-9)
    assert math.isnan(table["num_rounds"].iloc[2])


def test_a_budget_buys_the_last_score_within_it(runs, tmp_path):
    budgets = [("bytes", 3000 * 7.5), ("bytes", 3000 * 2), ("virtual_s", 5)]
    table = compare(runs, tmp_path, budgets=budgets)[2].frame().set_index(["group", "cost", "budget"])["score"]
    for budget, round_ in ((3000 * 7.5, 6), (3000 * 2, 1)):
        expected = np.mean([global_accuracy(round_, "validation") + gain for gain in GAINS])
        assert table["fedavg", "bytes", budget] == pytest.approx(expected)
    assert math.isnan(table["fedavg", "virtual_s", 5])  # the first round ends after 10 s


def test_defaults_are_what_every_run_reaches_and_has_spent(runs, tmp_path):
    _, targets, budgets = compare(runs, tmp_path)
    assert {row["target"].text for row in targets.rows} == {"86 %"}  # 0.9 - 0.8 / 20 = 0.86 is the worst run's best
    assert all(row["reached"].text == "3 of 3" for row in targets.rows)
    assert "The target is the best that every run reaches." in targets.caption
    assert set(budgets.frame()["cost"]) == {"virtual_s", "bytes", "flops", "energy_j"}
    assert "The budgets are the most that every run had spent" in budgets.caption
    assert "NaN" not in budgets.frame().to_string()


def test_the_order_of_runs_changes_the_order_of_rows_alone(runs, tmp_path):
    one = compare(runs, tmp_path / "a", against="fedavg")
    other = compare(runs[::-1], tmp_path / "b", against="fedavg")
    for left, right in zip(one, other, strict=True):
        left, right = (table.frame().sort_values("group", ignore_index=True) for table in (left, right))
        pd.testing.assert_frame_equal(left, right)


def test_one_seed_has_no_interval_and_another_metric_is_not_in_per_cent(tmp_path):
    path = write_run(tmp_path / "run", "full", metric="perplexity")
    outcomes, targets, _ = compare([path], tmp_path / "out")
    assert "±" not in outcomes.markdown().split("\n\n", 1)[1]
    assert "full model, perplexity on validation |" in outcomes.markdown()
    assert targets.rows[0]["reached"].text == "1 of 1"  # lower is better: the best is the first
    assert targets.frame()["num_rounds"].tolist() == [1.0]
    at_most = compare([path], tmp_path / "out", targets=[0.5])[1].frame()
    assert at_most["num_rounds"].tolist() == [1.0]  # 0.1 is as good as 0.5; 0.5 itself comes later


def test_unfinished_runs_take_part_and_are_named(tmp_path):
    paths = [
        write_run(tmp_path / kind, kind, seed=seed) for seed, kind in enumerate(("full", "one_round", "no_rounds"))
    ]
    outcomes, targets, budgets = compare(paths, tmp_path / "out")
    assert "Not finished: raffm with seed 1 is interrupted; raffm with seed 2 is running." in outcomes.caption
    assert "Without a score, and not in its mean: raffm with seed 2." in outcomes.caption
    assert len(outcomes.rows[0]["score"].values) == 2  # one was never evaluated
    row = outcomes.frame().iloc[0]
    assert (row["seeds"], row["score_seeds"]) == (3, 2)
    assert row["score"] == pytest.approx((global_accuracy(19, "validation") + global_accuracy(0, "validation")) / 2)
    assert not targets.rows and not budgets.rows
    assert "No target: a run has no score." in targets.caption
    assert "No budget: a run has no score." in budgets.caption
    for table in (targets, budgets):
        assert pd.read_csv(tmp_path / "out" / f"{table.name}.csv").columns[0] == "group"


def test_latex_has_booktabs_rules_and_escapes_what_is_special():
    table = Table(
        "t",
        "100 % of a_b",
        [Column("group", "a & b"), Column("x", "x_1")],
        [{"group": "50% {a}", "x": Estimate((1.0, 3.0))}],
    )
    text = table.latex()
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{table}[t]"))
    assert r"\caption{100 \% of a\_b}" in text and r"a \& b" in text and r"50\% \{a\}" in text and r"x\_1" in text
    assert r"2.00 $\pm$ 12.71" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert not re.search(r"(?<!\\)[&%_](?=.*\\caption)", text)


def test_figures_have_each_groups_mean_and_interval(runs, tmp_path):
    compare(runs, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "comparison.md",
        "comparison.tex",
        "cost_to_target.csv",
        "score_by_bytes.svg",
        "score_by_energy_j.png",
    }
    assert not [name for name in names if name.startswith(".new")]
    assert imread(tmp_path / "score_by_bytes.png")[..., :3].std() > 0.01
    groups = read(runs)
    (axes,) = draw(groups, "bytes").axes
    assert [line.get_label() for line in axes.lines] == ["fedavg", "raffm"]
    table = mean_curve(groups[0], "bytes")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), table["mean"])
    np.testing.assert_allclose(table["half"], Estimate(GAINS).half)


def test_a_sweep_is_read_by_its_table_and_missing_points_are_named(tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / f"seed={seed}", "full", seed=seed)
    (tmp_path / "sweep.csv").write_text("run,seed\nseed=0,0\nseed=1,1\nseed=2,2\n")
    found, missing = gather([tmp_path])
    assert found == [tmp_path / "seed=0", tmp_path / "seed=1"]
    assert missing == [f"'{tmp_path / 'seed=2'}' has no log yet and is left out"]
    status, out, err = command(tmp_path, "--output", tmp_path / "out", capsys=capsys)
    assert status == 0
    assert "seed=2' has no log yet" in err
    assert "| raffm | 2 |" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--budget", "bytes"], "--budget 'bytes' is not of the form COST=NUMBER"),
        (["--budget", "hours=3"], "unknown cost 'hours'; known: num_rounds, virtual_s, bytes"),
        (["--against", "best"], "unknown group 'best'; there are: fedavg; raffm"),
        (["--split", "train"], "unknown split 'train'; known: validation, test"),
        (["--diff"], "--diff takes two runs, not 6"),
    ],
)
def test_mistakes_are_one_sentence(runs, tmp_path, capsys, words, sentence):
    status, out, err = command(*runs, "--output", tmp_path / "out", *words, capsys=capsys)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert sentence in line
    assert not (tmp_path / "out").exists()


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    one = write_run(tmp_path / "a", "full")
    twin, other = write_run(tmp_path / "b", "full"), write_run(tmp_path / "c", "full", metric="perplexity")
    with pytest.raises(UserMistake, match=r"runs of raffm have seed 0 more than once: '.*a', '.*b'"):
        read([one, twin])
    with pytest.raises(UserMistake, match=r"c' has perplexity on validation, '.*a' accuracy on validation"):
        read([one, other])
    with pytest.raises(UserMistake, match="there is no run to compare"):
        read([])
    with pytest.raises(UserMistake, match="does not exist"):
        read([tmp_path / "nowhere"])


def test_a_difference_names_settings_outcome_and_the_last_round_in_common(runs, tmp_path, capsys):
    text = difference(runs[0], runs[3])
    assert "| method.name | fedavg | raffm |" in text
    assert "federation" not in text  # the same
    assert "The same losses, bytes and models in all 20 rounds that both have." in text
    assert "| accuracy on validation | 0.86 | 0.91 |" in text
    status, out, _ = command(runs[0], runs[3], "--diff", capsys=capsys)
    assert (status, out) == (0, text)
    short = write_run(tmp_path / "short", "one_round", **{"method": config()["method"]})
    assert "in all 1 rounds that both have" in difference(runs[0], short)


def test_the_comparison_needs_neither_torch_nor_mpi():
    rooms = "raffm_mpi.analysis.compare, raffm_mpi.analysis.report, raffm_mpi.analysis.difference"
    code = f"import sys, {rooms}; print({{'torch', 'mpi4py'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
