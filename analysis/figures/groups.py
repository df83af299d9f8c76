"""Figures of the client groups in real time: when each trained or waited, and how well the schedule predicted it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raffm_mpi.analysis.figures.panel import Nothing, Panel
from raffm_mpi.analysis.quantities import group_times
from raffm_mpi.analysis.style import PALETTE
from raffm_mpi.log import Run

MAX_ROUNDS = 40  # of the timeline
MAX_GROUPS = 64


def _timeline(figure: Figure, run: Run) -> None:
    """Each group's training as bars along real time, the last rounds where there are many."""
    table = group_times(run)
    if table.empty:
        raise Nothing("No round has been committed.")
    last = table[table["round"] > table["round"].max() - MAX_ROUNDS]
    names = sorted(last["group"].unique())[:MAX_GROUPS]
    start_s = last["real_start_s"].min()
    axes = figure.subplots()
    looks: dict[str, dict[str, Any]] = {
        "training": {"color": PALETTE[0]},
        "idle": {"color": "#E69F00", "hatch": "////", "edgecolor": "white"},
    }
    for place, group in enumerate(names):
        own = last[last["group"] == group]
        begins = (own["real_start_s"] - start_s).to_numpy(float)
        busy, idle = own["actual_s"].to_numpy(float), own["idle_s"].to_numpy(float)
        for look, start, length in (("training", begins, busy), ("idle", begins + busy, idle)):
            axes.broken_barh(list(zip(start, length, strict=True)), (place - 0.38, 0.76), **looks[look])
    share = table["idle_s"].sum() / max(table["idle_s"].sum() + table["actual_s"].sum(), 1e-12)
    axes.broken_barh([], (0, 0), **looks["training"], label="training")
    axes.broken_barh([], (0, 0), **looks["idle"], label=f"idle ({share:.1%} of all rounds)")
    axes.set_yticks(range(len(names)), [str(name) for name in names] if len(names) <= 20 else [""] * len(names))
    axes.set_ylabel("client group")
    first = int(last["round"].min()) + 1
    axes.set_xlabel(f"real time from round {first} (s)")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper left", ncols=2)


def _prediction(figure: Figure, run: Run) -> None:
    """Predicted against measured training time of each group in each round."""
    table = run.groups
    table = table[(table["actual_s"] > 0) & (table["predicted_s"] > 0)]
    if table.empty:
        raise Nothing("No round has been committed.")
    axes = figure.subplots()
    early = table["round"] == table["round"].min()
    for chosen, name, marker, color in (
        (early, "first round, before anything was measured", "s", PALETTE[1]),
        (~early, "later rounds", "o", PALETTE[0]),
    ):
        points = table[chosen]
        if len(points):
            axes.plot(
                points["predicted_s"],
                points["actual_s"],
                linestyle="",
                marker=marker,
                markersize=4,
                color=color,
                alpha=0.6,
                label=name,
                rasterized=len(points) > 2000,
            )
    low = float(min(table["predicted_s"].min(), table["actual_s"].min()))
    high = float(max(table["predicted_s"].max(), table["actual_s"].max()))
    axes.plot([low, high], [low, high], color="#444444", linestyle=":", label="as foreseen")
    if high > 20 * low:
        axes.set(xscale="log", yscale="log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    ratio = np.median(table.loc[~early, "actual_s"] / table.loc[~early, "predicted_s"]) if (~early).any() else np.nan
    axes.set_xlabel("real training time that was predicted (s)")
    axes.set_ylabel("it took (s)")
    figure.legend(
        title=None if np.isnan(ratio) else f"median of taken / predicted in later rounds: {ratio:.2f}",
        loc="outside upper left",
        ncols=1,
    )


PANELS = (
    Panel(
        "timeline",
        "Timeline of the client groups",
        "When each client group trained and when it waited for the slowest, in real time.",
        _timeline,
    ),
    Panel(
        "prediction",
        "Predicted and actual training time",
        "Each point is a client group in a round: the time that the schedule expected, against the time that it took.",
        _prediction,
    ),
)
