"""The look of every figure (colours, lines, units on axes), and how figures are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from raffm_mpi.files import replacing
from raffm_mpi.log import LOWER_IS_BETTER

EVALUATED = ("validation", "test")
MAX_MARKERS = 40  # of a line
# Okabe and Ito (2008): told apart by colour-blind readers; dashes and markers tell lines apart in black and white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7F00")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: dict[str, dict[str, Any]] = {
    "train": {"color": "#000000", "linestyle": ":", "marker": "^"},
    "validation": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "test": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
}
BLUES = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.15, 1, 256)))  # the least is not white
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.9,
    "lines.markersize": 5,
    "svg.hashsalt": "raffm_mpi",  # the same run gives the same file
}


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as ``name.png`` and ``name.svg``, each whole or not at all; returns their paths."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        with replacing(path) as new:
            figure.savefig(new, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def look(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of the n-th line of a figure."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": DASHES[(number + number // len(PALETTE)) % len(DASHES)],  # other dashes from the ninth on
        "marker": MARKERS[number % len(MARKERS)],
    }


def words(name: str) -> str:
    """The name of a metric or setting as words."""
    return name.replace("_", " ")


def is_fraction(metric: str) -> bool:
    """Whether a metric is shown in per cent; see :data:`raffm_mpi.log.LOWER_IS_BETTER`."""
    return metric not in LOWER_IS_BETTER


def count_rounds(axes: Axes) -> None:
    """Communication rounds along the x axis, in whole numbers."""
    axes.set_xlabel("communication round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim(low - 0.5, high + 0.5)


def count_score(axes: Axes, metric: str) -> None:
    """A metric's values along the y axis, in per cent where it is a fraction."""
    if not is_fraction(metric):
        axes.set_ylabel(words(metric))
        return
    axes.set_ylabel(f"{words(metric)} (%)")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    low, high = axes.get_ylim()
    if high - low < 0.1:  # a small change shall look small
        middle = min(max((low + high) / 2, 0.05), 0.95)
        axes.set_ylim(middle - 0.05, middle + 0.05)
