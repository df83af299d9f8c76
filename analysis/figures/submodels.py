"""Figures of sub-models: size against score, and the sizes that clients trained."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from raffm_mpi.analysis.figures.panel import Nothing, Panel
from raffm_mpi.analysis.style import BLUES, EVALUATED, LINES, MAX_MARKERS, count_rounds, count_score
from raffm_mpi.log import Run

MAX_COLUMNS = 60  # of the heat map
SIZE = "size of the sub-model (parameters)"


def _sized(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """Rows with a score, and the parameters of their sub-models."""
    return table.dropna(subset=["score"]).merge(run.submodels[["submodel", "parameters"]], on="submodel")


def _trade_off(figure: Figure, run: Run) -> None:
    evaluation = _sized(run, run.evaluation)
    if evaluation.empty:
        raise Nothing("No sub-model has been evaluated.")
    cut = evaluation[evaluation["submodel"] != evaluation["submodel"].min()]
    last = (evaluation if cut.empty else cut)["round"].max()
    axes = figure.subplots()
    for split in EVALUATED:
        points = evaluation[(evaluation["round"] == last) & (evaluation["split"] == split)].sort_values("parameters")
        if len(points):
            size = 7 if len(points) <= MAX_MARKERS else 3
            axes.plot(points["parameters"], points["score"], **{**LINES[split], "markersize": size}, label=split)
    axes.set_title(f"after round {last + 1}")
    _sizes_across(axes)
    axes.margins(x=0.06, y=0.12)
    count_score(axes, run.main_metric)
    axes.legend(loc="best")


def _hexbin(figure: Figure, run: Run) -> None:
    """Size against score: of every client's share of the test split, else of every evaluation there was."""
    by_client = _sized(run, run.client_scores)
    points = by_client if len(by_client) else _sized(run, run.evaluation)
    if points.empty:
        raise Nothing("No sub-model has been evaluated.")
    axes = figure.subplots()
    spread = points["parameters"].max() - points["parameters"].min() or points["parameters"].max()
    room = 0.08 * spread
    low, high = points["score"].min(), points["score"].max()
    margin = 0.05 * (high - low) or 0.05
    extent = (
        max(points["parameters"].min() - room, 0),
        points["parameters"].max() + room,
        low - margin,
        high + margin,
    )
    mesh = axes.hexbin(points["parameters"], points["score"], gridsize=(28, 16), extent=extent, cmap=BLUES, mincnt=1)
    mesh.set_rasterized(True)
    mesh.set_clim(0)
    means = points.groupby("parameters")["score"].mean()
    axes.plot(means.index, means, color="#D55E00", marker="D", linestyle="--", label="mean")
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label("clients" if len(by_client) else "evaluations")
    bar.locator = MaxNLocator(integer=True)
    bar.update_ticks()
    bar.outline.set_visible(False)
    _sizes_across(axes)
    count_score(axes, run.main_metric)
    axes.legend(loc="best")


def _trained_sizes(figure: Figure, run: Run) -> None:
    """How many clients trained a sub-model of which size, round by round."""
    clients = run.clients[run.clients["status"] == "trained"]
    if clients.empty:
        raise Nothing("No client has trained.")
    axes = figure.subplots()
    sizes = clients["parameters"]
    room = max(0.02 * sizes.max(), 0.05 * (sizes.max() - sizes.min()))
    upwards = np.linspace(max(sizes.min() - room, 0), sizes.max() + room, 26)
    axes.set_ylabel(SIZE)
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    if len(run.rounds) > 1:
        _heat_map(figure, axes, clients["round"], sizes, upwards)
        return
    axes.hist(sizes, upwards.tolist(), orientation="horizontal", color=LINES["validation"]["color"])
    axes.set_xlabel(f"clients in round {clients['round'].iloc[0] + 1}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _heat_map(
    figure: Figure, axes: Axes, rounds: pd.Series[int], sizes: pd.Series[int], upwards: np.ndarray[tuple[int], np.dtype]
) -> None:
    """Clients a round by round and size, several rounds to a column where there are many."""
    first, stop = int(rounds.min()) + 1, int(rounds.max()) + 2
    step = -(-(stop - first) // MAX_COLUMNS)
    across = np.minimum(np.arange(first, stop + step, step), stop) - 0.5
    counts, _, _ = np.histogram2d(rounds + 1, sizes, [across, upwards])
    a_round = counts / np.diff(across)[:, None]
    mesh = axes.pcolormesh(across, upwards, np.ma.masked_equal(a_round.T, 0), cmap=BLUES, vmin=0, rasterized=True)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label("clients a round" if step == 1 else f"clients a round, mean of {step} rounds")
    bar.outline.set_visible(False)
    axes.grid(visible=False)
    count_rounds(axes)


def _sizes_across(axes: Axes) -> None:
    axes.set_xlabel(SIZE)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))


PANELS = (
    Panel(
        "submodels",
        "Sub-models cut from the global model",
        "Size against score of the sub-models that were cut out and evaluated, without training them further.",
        _trade_off,
    ),
    Panel(
        "size_and_score",
        "Size against score, as the paper's hexagons",
        "How many clients see which score, on their own share of the test split, with a sub-model of which size; "
        "without such scores, every evaluation of the run.",
        _hexbin,
    ),
    Panel(
        "trained_sizes",
        "Sub-models that clients trained",
        "How many clients trained a sub-model of which size in each round.",
        _trained_sizes,
    ),
)
