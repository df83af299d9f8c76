"""Figures of the global model's score and loss against each cost."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from raffm_mpi.analysis.figures.panel import Nothing, Panel
from raffm_mpi.analysis.quantities import COSTS, costs, scores
from raffm_mpi.analysis.style import EVALUATED, LINES, MAX_MARKERS, count_rounds, count_score, is_fraction, words
from raffm_mpi.log import Run

_SHOWN = ("num_rounds", "virtual_s", "bytes", "flops", "energy_j")
_UNITS = {"virtual_s": "s", "bytes": "B", "flops": "FLOP", "energy_j": "J"}


def _paint(cost: str, figure: Figure, run: Run) -> None:
    """Score above, loss below, against one cost."""
    spent = costs(run)
    if len(spent) < 2:
        raise Nothing("No round has been committed.")
    if spent[cost].isna().any():
        raise Nothing("Clients have no devices, so that nothing is known of this.")
    above, below = figure.subplots(2, 1, sharex=True)
    tables = {split: scores(run, split) for split in EVALUATED}
    percent = is_fraction(run.main_metric)
    found = [_line(above, split, table, cost, "score", percent) for split, table in tables.items()]
    train = run.rounds[["round", "train_loss"]].merge(spent, on="round").rename(columns={"train_loss": "loss"})
    for split, table in {"train": train, **tables}.items():
        _line(below, split, table, cost, "loss")
    if any(found):
        count_score(above, run.main_metric)
        _legend(above)
    else:
        above.set_ylabel(words(run.main_metric))
        above.text(0.5, 0.5, "not evaluated", transform=above.transAxes, ha="center", color="#444444")
    below.set_ylabel("mean loss")
    _legend(below)
    if cost == "num_rounds":
        count_rounds(below)
        below.set_xlabel("communication rounds done")
    else:
        name = COSTS[cost].partition(" (")[0]
        below.set_xlabel(f"{name} ({_UNITS[cost]})")
        below.xaxis.set_major_formatter(EngFormatter(sep=" "))
    below.set_xlim(left=0)


def _legend(axes: Axes) -> None:
    """A legend in one row at the top, and room for it."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))
    axes.legend(loc="upper left", ncols=3, fontsize="small", columnspacing=1.2, borderaxespad=0.2)


def _line(axes: Axes, name: str, table: pd.DataFrame, cost: str, column: str, percent: bool = False) -> bool:
    """Draw one line, if there is anything to draw."""
    table = table.dropna(subset=[column])
    if table.empty:
        return False
    last = table[column].iloc[-1]
    value = f"{100 * last:.1f} %" if percent else f"{last:.3g}"
    every = None if len(table) <= MAX_MARKERS else len(table) // 10
    axes.plot(table[cost], table[column], **LINES[name], markevery=every, label=f"{name}, last {value}")
    return True


PANELS = tuple(
    Panel(
        f"learning_by_{cost}",
        f"Score and loss against {COSTS[cost].partition(' (')[0]}",
        f"The global model's score and mean loss, and the clients' mean training loss, against {COSTS[cost]}.",
        partial(_paint, cost),
        height=4.8,
    )
    for cost in _SHOWN
)
