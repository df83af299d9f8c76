"""Figures of the clients: participation, what became of each, label skew, and their own scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raffm_mpi.analysis.figures.panel import Nothing, Panel
from raffm_mpi.analysis.quantities import label_shares, participation
from raffm_mpi.analysis.style import BLUES, PALETTE, count_rounds, words
from raffm_mpi.log import GLOBAL_MODEL, Run

MAX_BARS = 100
MAX_ROWS = 100  # of the label image
MAX_LABELS = 30  # that are named
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")


def _participation(figure: Figure, run: Run) -> None:
    """How many clients were asked, and trained, how often."""
    table = participation(run)
    if table.empty or not table["asked"].sum():
        raise Nothing("No client has been asked.")
    axes = figure.subplots()
    most = int(table["asked"].max())
    step = -(-(most + 1) // MAX_BARS)
    edges = np.arange(0, most + step + 1, step) - 0.5
    axes.hist(table["asked"], edges.tolist(), color="#56B4E9", label="asked")
    axes.hist(table["trained"], edges.tolist(), histtype="step", color="#000000", linewidth=1.6, label="trained")
    axes.set_xlabel("rounds of a client")
    axes.set_ylabel("clients")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(loc="outside upper left", ncols=2)


def _fates(figure: Figure, run: Run) -> None:
    """What became of each round's cohort, stacked."""
    clients = run.clients
    if clients.empty:
        raise Nothing("No client has been asked.")
    counts = clients.groupby(["round", "status"], observed=True).size().unstack(fill_value=0)
    names = ["trained", *(name for name in counts if name != "trained")]
    counts = counts.reindex(columns=names, fill_value=0)
    step = -(-len(counts) // MAX_BARS)
    grouped = counts.groupby(np.arange(len(counts)) // step).mean()
    first = counts.index.to_numpy()[::step] + 1
    axes = figure.subplots()
    bottom = np.zeros(len(grouped))
    for number, name in enumerate(grouped):
        look: dict[str, Any] = {
            "color": PALETTE[number % len(PALETTE)],
            "hatch": HATCHES[number % len(HATCHES)],
            "edgecolor": "white",
        }
        total = int(counts[name].sum())
        axes.bar(first, grouped[name], 0.9 * step, bottom, align="edge" if step > 1 else "center", **look)
        axes.patches[-1].set_label(f"{name}: {total:,}")
        bottom += grouped[name].to_numpy()
    handles = [patch for patch in axes.patches if not str(patch.get_label()).startswith("_")]
    count_rounds(axes)
    axes.set_ylabel("clients" if step == 1 else f"clients a round, mean of {step} rounds")
    axes.grid(visible=False, axis="x")
    axes.set_ylim(top=1.02 * bottom.max())
    figure.legend(handles=handles, loc="outside upper left", ncols=3)


def _label_skew(figure: Figure, run: Run) -> None:
    """The share of each label among a client's examples: rows are clients, sorted by their commonest label."""
    shares = label_shares(run)
    if shares.empty:
        raise Nothing("The examples have no labels.")
    values = shares.to_numpy()
    rows = np.lexsort((-values.max(axis=1), values.argmax(axis=1)))
    shown = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).astype(int)]
    axes = figure.subplots()
    image = axes.imshow(values[shown], aspect="auto", cmap=BLUES, vmin=0, interpolation="nearest")
    few = len(shares.columns) <= MAX_LABELS
    if few:
        names = [str(name) for name in shares]
        axes.set_xticks(range(len(names)), names)
        if sum(map(len, names)) > 40:
            axes.tick_params(axis="x", labelrotation=45)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
    axes.set_xlabel("label" if few else f"label, of {len(shares.columns)}")
    axes.set_ylabel(f"{len(shown)} of {len(rows):,} clients" if len(shown) < len(rows) else f"{len(rows):,} clients")
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("share of the client's examples")
    bar.outline.set_visible(False)


def _fairness(figure: Figure, run: Run) -> None:
    """How the full model's score is spread over clients."""
    table = run.client_scores
    table = table[(table["submodel"] == GLOBAL_MODEL) & table["score"].notna()]
    if table.empty:
        raise Nothing("Clients' own scores were not taken.")
    last = table[table["round"] == table["round"].max()]
    axes = figure.subplots()
    axes.hist(last["score"], 25, color=PALETTE[0])
    for name, value, dashes in (
        ("mean", last["score"].mean(), "-"),
        ("worst tenth up to", last["score"].quantile(0.1), "--"),
    ):
        axes.axvline(value, color="#000000", linestyle=dashes, linewidth=1.4, label=f"{name} {value:.3f}")
    axes.set_ylabel("clients")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(
        f"{words(run.main_metric)} on the client's share of the test split, after round {last['round'].iloc[0] + 1}"
    )
    figure.legend(loc="outside upper left", ncols=2)


PANELS = (
    Panel(
        "participation",
        "Participation",
        "How many clients were asked, and trained, in how many rounds.",
        _participation,
    ),
    Panel(
        "fates",
        "What became of the cohorts",
        "Clients of each round by what became of them; totals in the legend.",
        _fates,
    ),
    Panel(
        "label_skew",
        "Label skew",
        "The share of each label among the examples of each client; clients in order of their commonest label.",
        _label_skew,
        height=4.4,
    ),
    Panel(
        "client_scores", "Scores of the clients", "The full model on each client's share of the test split.", _fairness
    ),
)
