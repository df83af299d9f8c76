"""The first picture of a run: how well the model does, and how large the sub-models are that taught it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from raffm_mpi.analysis.style import (
    BLUES,
    EVALUATED,
    LINES,
    MAX_MARKERS,
    STYLE,
    count_rounds,
    count_score,
    is_fraction,
    save,
    say,
    words,
)
from raffm_mpi.log import GLOBAL_MODEL, Run, open_run

MAX_COLUMNS = 60  # of the heat map


def write_report(run_folder: str | Path) -> list[Path]:
    """Draw ``report.png`` and ``report.svg`` into the folder of a run that is finished, under way or was cut off.

    Returns their paths. Raises ValueError where the log cannot be read, as :func:`raffm_mpi.log.open_run`.
    """
    with open_run(run_folder) as run, matplotlib.rc_context(STYLE):
        return save(draw(run), run.path.parent, "report")


def draw(run: Run) -> Figure:
    """The four panels: score, loss, size against score, and the sizes that clients trained."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.03, rect=(0, 0, 1, 0.925))
    figure = Figure(figsize=(12.8, 8.2), layout=layout)
    (score, loss), (trade_off, sizes) = figure.subplots(2, 2)
    title, facts = _headline(run)
    figure.text(0.012, 0.985, title, va="top", fontsize=15, fontweight="bold")
    figure.text(0.012, 0.932, facts, va="bottom", color="#444444")
    _draw_score(score, run)
    _draw_loss(loss, run)
    _draw_trade_off(trade_off, run)
    _draw_sizes(sizes, run)
    return figure


def _headline(run: Run) -> tuple[str, str]:
    config = run.config
    model, data, federation = config["model"], config["data"], config["federation"]
    partition = data["partition"]["kind"]
    if partition == "dirichlet":
        partition += f" {data['partition']['alpha']:g}"
    title = f"{config['method']['name']} on {_tail(model['name'] or model['family'], 60)}"
    facts = [
        f"{len(run.rounds)} of {federation['num_rounds']} rounds, {run.status}",
        f"data {_tail(Path(data['path']).name, 24)}, {partition}",
        f"{len(run.partition) or federation['num_clients']} clients, {100 * federation['participation']:g} % a round",
        f"seed {config['seed']}",
        f"raffm_mpi {run.attributes['software_version']}",
        f"commit {str(run.attributes.get('commit', 'unknown'))[:10]}",
    ]
    return title, "   ·   ".join(facts)


def _tail(text: str, length: int) -> str:
    """The end of a long name, which says more than its beginning."""
    return text if len(text) <= length else "…" + text[1 - length :]


def _draw_score(axes: Axes, run: Run) -> None:
    axes.set_title(f"{words(run.main_metric).capitalize()} of the global model")
    evaluation = run.evaluation[run.evaluation["submodel"] == GLOBAL_MODEL]
    percent = is_fraction(run.main_metric)
    lines = [_line(axes, split, evaluation[evaluation["split"] == split], "score", percent) for split in EVALUATED]
    if any(lines):
        count_rounds(axes)
        count_score(axes, run.main_metric)
        axes.legend(loc="best")
    else:
        say(axes, "The global model has not been evaluated.")


def _draw_loss(axes: Axes, run: Run) -> None:
    axes.set_title("Loss")
    evaluation = run.evaluation[run.evaluation["submodel"] == GLOBAL_MODEL]
    lines = [_line(axes, "train", run.rounds, "train_loss")]
    lines += [_line(axes, split, evaluation[evaluation["split"] == split], "loss") for split in EVALUATED]
    if any(lines):
        count_rounds(axes)
        axes.set_ylabel("mean loss")
        axes.legend(loc="best")
    else:
        say(axes, "No round has been committed.")


def _draw_trade_off(axes: Axes, run: Run) -> None:
    """Sub-models cut from the global model, at the last round that evaluated any."""
    axes.set_title("Sub-models cut from the global model")
    evaluation = run.evaluation.dropna(subset=["score"])
    evaluation = evaluation.merge(run.submodels[["submodel", "parameters"]], on="submodel")
    if evaluation.empty:
        say(axes, "No sub-model has been evaluated.")
        return
    last = evaluation["round"].max()
    axes.set_title(f"Sub-models cut from the global model after round {last}")
    for split in EVALUATED:
        points = evaluation[(evaluation["round"] == last) & (evaluation["split"] == split)]
        look = {**LINES[split], "linestyle": "", "markersize": 7 if len(points) <= MAX_MARKERS else 3}
        if len(points):
            axes.plot(points["parameters"], points["score"], **look, label=split)
    axes.set_xlabel("size of the sub-model (parameters)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.06, y=0.12)
    count_score(axes, run.main_metric)
    axes.legend(loc="best")


def _draw_sizes(axes: Axes, run: Run) -> None:
    """How many clients trained a sub-model of which size, round by round."""
    axes.set_title("Sub-models that clients trained")
    clients = run.clients[run.clients["status"] == "trained"]
    if clients.empty:
        say(axes, "No client has trained.")
        return
    sizes = clients["parameters"]
    room = max(0.02 * sizes.max(), 0.05 * (sizes.max() - sizes.min()))
    upwards = np.linspace(max(sizes.min() - room, 0), sizes.max() + room, 26)
    axes.set_ylabel("size of the sub-model (parameters)")
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if len(run.rounds) > 1:
        _heat_map(axes, clients["round"], sizes, upwards)
        return
    axes.hist(sizes, upwards.tolist(), orientation="horizontal", color=LINES["validation"]["color"])
    axes.set_xlabel(f"clients in round {clients['round'].iloc[0]}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _heat_map(axes: Axes, rounds: pd.Series[int], sizes: pd.Series[int], upwards: np.ndarray[Any, Any]) -> None:
    """Clients a round by round and size, several rounds to a column where there are many."""
    first, stop = int(rounds.min()), int(rounds.max()) + 1
    step = -(-(stop - first) // MAX_COLUMNS)
    across = np.minimum(np.arange(first, stop + step, step), stop) - 0.5
    counts, _, _ = np.histogram2d(rounds, sizes, [across, upwards])
    a_round = counts / np.diff(across)[:, None]
    mesh = axes.pcolormesh(across, upwards, np.ma.masked_equal(a_round.T, 0), cmap=BLUES, vmin=0)
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label("clients a round" if step == 1 else f"clients a round, mean of {step} rounds")
    bar.outline.set_visible(False)
    axes.grid(visible=False)
    count_rounds(axes)


def _line(axes: Axes, name: str, table: pd.DataFrame, column: str, percent: bool = False) -> bool:
    """Draw one line against the round, if there is anything to draw."""
    table = table.dropna(subset=[column])
    if table.empty:
        return False
    last = table[column].iloc[-1]
    value = f"{100 * last:.1f} %" if percent else f"{last:.3g}"
    every = None if len(table) <= MAX_MARKERS else len(table) // 10
    axes.plot(table["round"], table[column], **LINES[name], markevery=every, label=f"{name}, last {value}")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m raffm_mpi.analysis.report RUN``: draw the report and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m raffm_mpi.analysis.report", description=__doc__)
    parser.add_argument("run", help="the folder of a run")
    try:
        for path in write_report(parser.parse_args(arguments).run):
            print(path)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
