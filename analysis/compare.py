"""Compare runs over seeds: their scores, what these cost, and the scores within a budget, as tables and figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from raffm_mpi.analysis.comparison import Result, SeedGroup, read
from raffm_mpi.analysis.quantities import COSTS
from raffm_mpi.analysis.style import STYLE, count_score, is_fraction, look, save, words
from raffm_mpi.analysis.tables import Cell, Column, Estimate, Ratio, Shown, Table
from raffm_mpi.errors import UserMistake
from raffm_mpi.files import write_text
from raffm_mpi.messages import quantity

MAX_LABEL = 64  # letters that a line of a legend has room for
SHOWN = ("num_rounds", "virtual_s", "bytes", "flops", "energy_j")
INTERVAL = "Mean over seeds ± half the width of its 95 % interval (Student's t), where there are two seeds or more"
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def compare(
    paths: Sequence[str | Path],
    output: Path,
    targets: Sequence[float] = (),
    budgets: Sequence[tuple[str, float]] = (),
    split: str | None = None,
    against: str | None = None,
) -> list[Table]:
    """Write ``comparison.md``, ``comparison.tex``, a CSV file a table and figures ``score_by_*``; returns the tables.

    ``targets`` are scores, ``budgets`` are costs, named as in :data:`quantities.COSTS`, with an amount each; without
    them some are chosen. ``against`` is the group that ratios are to, by default the first. Raises UserMistake for runs
    that cannot be compared, for an unknown cost or group, and for a target or budget that no run could have.
    """
    groups = read(paths, split)
    _check_targets(groups, targets)
    _check_budgets(groups, budgets)
    names = [group.name for group in groups]
    if against is not None and against not in names:
        raise UserMistake(f"unknown group '{against}'; there are: {'; '.join(names)}")
    reference = groups[names.index(against) if against else 0]
    tables = [
        outcomes(groups),
        costs_to_targets(groups, targets, reference),
        scores_at_budgets(groups, budgets),
    ]
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "comparison.md", "\n".join(table.markdown() for table in tables))
    write_text(output / "comparison.tex", "\n".join(table.latex() for table in tables))
    for table in tables:
        write_text(output / f"{table.name}.csv", table.frame().to_csv(index=False))
    with matplotlib.rc_context(STYLE):
        for cost in shown_costs(groups):
            save(draw(groups, cost), output, f"score_by_{cost}")
    return tables


def shown_costs(groups: Sequence[SeedGroup]) -> list[str]:
    """The costs that are known for every run."""
    return [cost for cost in SHOWN if not any(math.isnan(run.spent[cost]) for group in groups for run in group.runs)]


def outcomes(groups: Sequence[SeedGroup]) -> Table:
    """The table of what each group reached and spent."""
    first = groups[0].runs[0]
    metric = f"{words(first.metric)} on {first.split}"
    costs = shown_costs(groups)
    unfinished = [f"{name} is {run.status}" for name, run in _named(groups) if run.status != "finished"]
    unscored = [name for name, run in _named(groups) if math.isnan(run.full)]
    caption = f"What the runs came to. {INTERVAL}."
    caption += f" Not finished: {'; '.join(unfinished)}." if unfinished else ""
    caption += f" Without a score, and not in its mean: {'; '.join(unscored)}." if unscored else ""
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


def costs_to_targets(groups: Sequence[SeedGroup], targets: Sequence[float], reference: SeedGroup) -> Table:
    """The table of what had been spent when each target was first reached, and of the saving against the reference.

    Only seeds that reached the target count. Without targets :func:`default_targets` are taken, as the caption says.
    """
    first, costs = groups[0].runs[0], shown_costs(groups)
    columns = [Column("group", "runs"), Column("target", "target"), Column("reached", "seeds that reached it")]
    for cost in costs:
        columns += [_cost_column(cost, groups), Column(f"{cost}_ratio", "times less")]
    rows: list[dict[str, Cell]] = []
    for target in targets or default_targets(groups):
        for group in groups:
            reached = [run for run in group.runs if not math.isnan(run.cost_to(target, "num_rounds"))]
            row: dict[str, Cell] = {
                "group": group.name,
                "target": Shown(target, _shown_score(first.metric, target)),
                "reached": Shown(len(reached), f"{len(reached)} of {len(group.runs)}"),
            }
            for cost in costs:
                row[cost] = _known([run.cost_to(target, cost) for run in reached])
                row[f"{cost}_ratio"] = _times_less(reference, reached, target, cost)
            rows.append(row)
    caption = f"What had been spent when {words(first.metric)} on {first.split} first reached a target. {INTERVAL}. "
    if rows:
        caption += (
            f"Times less: the mean of {reference.name} by that of a row, of the seeds with which both reached it, and "
            "in brackets the least and the most of these seeds."
        )
    if not targets:
        caption += " The target is the best that every run reaches." if rows else "No target: a run has no score."
    return Table("cost_to_target", caption.strip(), columns, rows)


def scores_at_budgets(groups: Sequence[SeedGroup], budgets: Sequence[tuple[str, float]]) -> Table:
    """The table of the last score within each budget.

    Without budgets :func:`default_budgets` are taken, and the caption says so.
    """
    first = groups[0].runs[0]
    rows: list[dict[str, Cell]] = [
        {
            "group": group.name,
            "cost": Shown(cost, _name_and_unit(cost)[0]),
            "budget": Shown(budget, _shown_budget(cost, budget)),
            "score": _known([run.score_at(budget, cost) for run in group.runs]),
        }
        for cost, budget in budgets or default_budgets(groups)
        for group in groups
    ]
    columns = [
        Column("group", "runs"),
        Column("cost", "of"),
        Column("budget", "at most"),
        _score_column("score", f"{words(first.metric)} on {first.split}", first.metric),
    ]
    caption = f"The score that a budget buys. {INTERVAL}."
    if not budgets:
        caption += (
            " The budgets are the most that every run had spent when it was scored last."
            if rows
            else " No budget: a run has no score."
        )
    return Table("score_at_budget", caption, columns, rows)


def default_targets(groups: Sequence[SeedGroup]) -> list[float]:
    """The best score that every run reaches, in whole per cent where it is a fraction; none if a run has no score."""
    best = [run.best() for group in groups for run in group.runs]
    if any(math.isnan(score) for score in best):
        return []
    if not is_fraction(groups[0].runs[0].metric):
        return [max(best)]
    percent = math.floor(100 * min(best))
    return [(percent if percent / 100 <= min(best) else percent - 1) / 100]  # 100 times a score may be rounded up


def default_budgets(groups: Sequence[SeedGroup]) -> list[tuple[str, float]]:
    """Of each cost, the most that every run had spent when it was scored last; none if a run has no score."""
    runs = [run for group in groups for run in group.runs]
    if any(run.curve.empty for run in runs):
        return []
    costs = [cost for cost in shown_costs(groups) if cost != "num_rounds"]
    return [(cost, min(float(run.curve[cost].iloc[-1]) for run in runs)) for cost in costs]


def draw(groups: Sequence[SeedGroup], cost: str) -> Figure:
    """The mean score of each group against a cost, with its interval."""
    labels = [textwrap.fill(group.name, MAX_LABEL, subsequent_indent="  ") for group in groups]
    columns = 1 if max(map(len, labels)) > 30 else 2
    num_lines = sum(label.count("\n") + 1 for label in labels) / columns
    figure = Figure(figsize=(6.4, 4.4 + 0.22 * max(0.0, num_lines - 2)), layout="constrained")
    axes = figure.subplots()
    has_band = False
    for number, (group, label) in enumerate(zip(groups, labels, strict=True)):
        table = mean_curve(group, cost)
        axes.plot(table[cost], table["mean"], **look(number), label=label, markevery=max(1, len(table) // 10))
        if table["half"].notna().any():
            has_band = True
            low, high = table["mean"] - table["half"], table["mean"] + table["half"]
            axes.fill_between(table[cost], low, high, color=look(number)["color"], alpha=0.15, linewidth=0)
    first = groups[0].runs[0]
    count_score(axes, first.metric)
    axes.set_ylabel(f"{words(first.metric)} on {first.split}{' (%)' if is_fraction(first.metric) else ''}")
    axes.set_xlabel(COSTS[cost])
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlim(left=0)
    title = "mean over seeds, with its 95 % interval" if has_band else None
    figure.legend(loc="outside upper left", ncols=columns, title=title, alignment="left", handlelength=3)
    return figure


def mean_curve(group: SeedGroup, cost: str) -> pd.DataFrame:
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
    """A budget with its unit."""
    unit = _name_and_unit(cost)[1]
    return quantity(budget, unit) if unit else f"{budget:g}"


def _known(values: Sequence[float]) -> Estimate:
    """The estimate of those values that are numbers."""
    return Estimate(tuple(value for value in values if not math.isnan(value)))


def _cost_column(cost: str, groups: Sequence[SeedGroup]) -> Column:
    """The column of a cost, with the unit prefix that makes its numbers short."""
    if cost == "num_rounds":
        return Column(cost, "rounds", 1.0, 1)
    name, unit = _name_and_unit(cost)
    most = max(run.spent[cost] for group in groups for run in group.runs)
    size, prefix = next(((size, prefix) for size, prefix in _PREFIXES if most >= size), (1.0, ""))
    if unit == "s":
        size, prefix = 1.0, ""
    return Column(cost, f"{name}, {prefix}{unit}", 1 / size, 1)


def _name_and_unit(cost: str) -> tuple[str, str]:
    """A cost in words, and its unit, which is empty for a count."""
    name, _, unit = COSTS[cost].rstrip(")").partition(" (")
    return name, "B" if unit == "bytes" else unit


def _times_less(reference: SeedGroup, reached: Sequence[Result], target: float, cost: str) -> Ratio:
    """What the reference spent until a target, by what other runs spent, over the seeds with which both reached it."""
    base = {run.seed: run.cost_to(target, cost) for run in reference.runs}
    pairs = [(base.get(run.seed, math.nan), run.cost_to(target, cost)) for run in reached]
    known = [(one, other) for one, other in pairs if other > 0 and not math.isnan(one)]
    return Ratio(tuple(one for one, _ in known), tuple(other for _, other in known))


def _named(groups: Sequence[SeedGroup]) -> Iterator[tuple[str, Result]]:
    """Each run with a name that no other has."""
    for group in groups:
        for run in group.runs:
            yield f"{group.name} with seed {run.seed}", run


def _check_targets(groups: Sequence[SeedGroup], targets: Sequence[float]) -> None:
    metric = groups[0].runs[0].metric
    for target in targets:
        if not math.isfinite(target):
            raise UserMistake(f"target {target} is not a number that a score can reach")
        if is_fraction(metric) and target > 1:
            raise UserMistake(f"target {target:g} is more than {words(metric)} can be, which is at most 1, as 0.8")


def _check_budgets(groups: Sequence[SeedGroup], budgets: Sequence[tuple[str, float]]) -> None:
    for cost, budget in budgets:
        if cost not in COSTS:
            raise UserMistake(f"unknown cost '{cost}'; known: {', '.join(COSTS)}")
        if not (math.isfinite(budget) and budget > 0):
            raise UserMistake(f"budget {cost}={budget:g} is not a number greater than 0")
        unknown = [run.path for group in groups for run in group.runs if math.isnan(run.spent[cost])]
        if unknown:
            raise UserMistake(f"budget {cost}={budget:g}: the clients of '{unknown[0]}' have no devices")


def _shown_score(metric: str, score: float) -> str:
    return f"{100 * score:g} %" if is_fraction(metric) else f"{score:.6g}"
