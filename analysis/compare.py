"""A comparison of runs over seeds: what they reached, what it cost, and what a budget buys, as tables and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from raffm_mpi.analysis.comparison import Group, read
from raffm_mpi.analysis.quantities import COSTS
from raffm_mpi.analysis.style import STYLE, count_score, is_fraction, look, quantity, save, words, write
from raffm_mpi.analysis.tables import Cell, Column, Estimate, Table

SHOWN = ("num_rounds", "virtual_s", "bytes", "flops", "energy_j")
INTERVAL = "Mean over seeds ± half the width of its 95 % interval (Student's t), where there are two seeds or more"
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def compare(
    paths: Sequence[str | Path],
    output: Path,
    targets: Sequence[float] = (),
    budgets: Mapping[str, float] | None = None,
    split: str | None = None,
    against: str | None = None,
) -> list[Table]:
    """Write ``comparison.md``, ``comparison.tex``, a CSV file a table and figures into a folder; returns the tables.

    ``targets`` are scores, ``budgets`` are costs by the names of :data:`quantities.COSTS`; without them one of each is
    chosen. ``against`` is the group that ratios are to, by default the first. Raises ValueError for runs that cannot be
    compared, and for an unknown cost or group.
    """
    groups = read(paths, split)
    unknown = [name for name in budgets or {} if name not in COSTS]
    if unknown:
        raise ValueError(f"unknown cost '{unknown[0]}'; known: {', '.join(COSTS)}")
    names = [group.name for group in groups]
    if against is not None and against not in names:
        raise ValueError(f"unknown group '{against}'; there are: {'; '.join(names)}")
    reference = groups[names.index(against) if against else 0]
    tables = [
        outcomes(groups),
        costs_to_targets(groups, targets or default_targets(groups), reference),
        scores_at_budgets(groups, budgets or default_budgets(groups)),
    ]
    output.mkdir(parents=True, exist_ok=True)
    write(output / "comparison.md", "\n".join(table.markdown() for table in tables))
    write(output / "comparison.tex", "\n".join(table.latex() for table in tables))
    for table in tables:
        write(output / f"{table.name}.csv", table.frame().to_csv(index=False))
    with matplotlib.rc_context(STYLE):
        for cost in shown_costs(groups):
            save(draw(groups, cost), output, f"score_by_{cost}")
    return tables


def shown_costs(groups: Sequence[Group]) -> list[str]:
    """The costs that are known of every run."""
    return [cost for cost in SHOWN if not any(math.isnan(run.spent[cost]) for group in groups for run in group.runs)]


def outcomes(groups: Sequence[Group]) -> Table:
    """What each group came to."""
    first = groups[0].runs[0]
    metric = f"{words(first.metric)} on {first.split}"
    costs = shown_costs(groups)
    everyone = [run for group in groups for run in group.runs]
    unfinished = [f"{run.path.name} is {run.status}" for run in everyone if run.status != "finished"]
    caption = f"What the runs came to. {INTERVAL}." + (f" Not finished: {', '.join(unfinished)}." if unfinished else "")
    columns = [
        Column("group", "runs"),
        Column("seeds", "seeds"),
        _score_column("score", f"full model, {metric}", first.metric),
        _score_column("smallest_score", "smallest sub-model", first.metric),
        Column("smallest_share", "its size, %", 100.0, 0),
        *(_cost_column(cost, groups) for cost in costs),
    ]
    rows: list[dict[str, Cell]] = [
        {
            "group": group.name,
            "seeds": len(group.runs),
            "score": _known([run.full for run in group.runs]),
            "smallest_score": _known([run.smallest for run in group.runs]),
            "smallest_share": _known([run.share for run in group.runs]),
            **{cost: Estimate(tuple(run.spent[cost] for run in group.runs)) for cost in costs},
        }
        for group in groups
    ]
    return Table("outcomes", caption, columns, rows)


def costs_to_targets(groups: Sequence[Group], targets: Sequence[float], reference: Group) -> Table:
    """What had been spent when each target was reached, of the seeds that reached it, and the saving of it."""
    first, costs = groups[0].runs[0], shown_costs(groups)
    columns = [Column("group", "runs"), Column("target", "target"), Column("reached", "seeds that reached it")]
    for cost in costs:
        columns += [_cost_column(cost, groups), Column(f"{cost}_ratio", "times less")]
    rows: list[dict[str, Cell]] = []
    for target in targets:
        base = {run.seed: run for run in reference.runs}
        for group in groups:
            reached = [run for run in group.runs if not math.isnan(run.cost_to(target, "num_rounds"))]
            row: dict[str, Cell] = {
                "group": group.name,
                "target": _shown_score(first.metric, target),
                "reached": f"{len(reached)} of {len(group.runs)}",
            }
            for cost in costs:
                row[cost] = _known([run.cost_to(target, cost) for run in reached])
                pairs = [
                    (base[run.seed].cost_to(target, cost), run.cost_to(target, cost))
                    for run in reached
                    if run.seed in base
                ]
                row[f"{cost}_ratio"] = _known([one / other for one, other in pairs if other > 0])
            rows.append(row)
    caption = (
        f"What had been spent when {words(first.metric)} on {first.split} first reached a target. {INTERVAL}. "
        f"Times less: than {reference.name} with the same seed."
    )
    return Table("cost_to_target", caption, columns, rows)


def scores_at_budgets(groups: Sequence[Group], budgets: Mapping[str, float]) -> Table:
    """The last score within each budget."""
    first = groups[0].runs[0]
    columns = [Column("group", "runs")]
    for cost, budget in budgets.items():
        columns.append(_score_column(f"score_at_{cost}", f"within {_shown_budget(cost, budget)}", first.metric))
    rows: list[dict[str, Cell]] = [
        {
            "group": group.name,
            **{
                f"score_at_{cost}": _known([run.score_at(budget, cost) for run in group.runs])
                for cost, budget in budgets.items()
            },
        }
        for group in groups
    ]
    caption = f"{words(first.metric).capitalize()} on {first.split} that a budget buys. {INTERVAL}."
    return Table("score_at_budget", caption, columns, rows)


def default_targets(groups: Sequence[Group]) -> list[float]:
    """The best score that every run reaches, in whole per cent where it is a fraction; none if a run has no score."""
    best = [run.best() for group in groups for run in group.runs]
    if any(math.isnan(score) for score in best):
        return []
    metric = groups[0].runs[0].metric
    return [math.floor(100 * min(best)) / 100 if is_fraction(metric) else max(best)]


def default_budgets(groups: Sequence[Group]) -> dict[str, float]:
    """Of each cost, the most that every run had spent when it was scored last."""
    runs = [run for group in groups for run in group.runs]
    if any(run.curve.empty for run in runs):
        return {}
    return {
        cost: min(float(run.curve[cost].iloc[-1]) for run in runs)
        for cost in shown_costs(groups)
        if cost != "num_rounds"
    }


def draw(groups: Sequence[Group], cost: str) -> Figure:
    """The mean score of each group against a cost, with its interval."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for number, group in enumerate(groups):
        table = mean_curve(group, cost)
        axes.plot(table[cost], table["mean"], **look(number), label=group.name, markevery=max(1, len(table) // 10))
        if table["half"].notna().any():
            low, high = table["mean"] - table["half"], table["mean"] + table["half"]
            axes.fill_between(table[cost], low, high, color=look(number)["color"], alpha=0.15, linewidth=0)
    count_score(axes, groups[0].runs[0].metric)
    axes.set_xlabel(COSTS[cost])
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlim(left=0)
    figure.legend(loc="outside upper left", ncols=1 if max(len(group.name) for group in groups) > 30 else 2)
    return figure


def mean_curve(group: Group, cost: str) -> pd.DataFrame:
    """Mean score and half its interval over seeds, at the mean cost of each evaluated round that all seeds have."""
    curves = pd.concat([run.curve[["round", "score", cost]] for run in group.runs])
    rows = []
    for _, table in curves.groupby("round"):
        if len(table) == len(group.runs):
            estimate = Estimate(tuple(table["score"]))
            rows.append({cost: table[cost].mean(), "mean": estimate.mean, "half": estimate.half})
    return pd.DataFrame(rows, columns=[cost, "mean", "half"]).astype(float)


def _score_column(name: str, head: str, metric: str) -> Column:
    """The column of a metric, in per cent where it is a fraction."""
    return Column(name, f"{head}, %", 100.0, 2) if is_fraction(metric) else Column(name, head, 1.0, 3)


def _shown_budget(cost: str, budget: float) -> str:
    """A budget with its unit and what it is of."""
    words, _, unit = COSTS[cost].rstrip(")").partition(" (")
    return f"{quantity(budget, 'B' if unit == 'bytes' else unit)} of {words}" if unit else f"{budget:g} {words}"


def _known(values: Sequence[float]) -> Estimate:
    """The estimate of those values that are numbers."""
    return Estimate(tuple(value for value in values if not math.isnan(value)))


def _cost_column(cost: str, groups: Sequence[Group]) -> Column:
    """The column of a cost, in a unit in which its numbers are short."""
    if cost == "num_rounds":
        return Column(cost, "rounds", 1.0, 1)
    words, _, unit = COSTS[cost].rstrip(")").partition(" (")
    most = max(run.spent[cost] for group in groups for run in group.runs)
    size, prefix = next(((size, prefix) for size, prefix in _PREFIXES if most >= size), (1.0, ""))
    if unit == "s":
        size, prefix = 1.0, ""
    return Column(cost, f"{words}, {prefix}{'B' if unit == 'bytes' else unit}", 1 / size, 1)


def _shown_score(metric: str, score: float) -> str:
    return f"{100 * score:g} %" if is_fraction(metric) else f"{score:.6g}"
