"""A figure of a report: its name, what it shows, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from raffm_mpi.analysis.style import STYLE
from raffm_mpi.log import Run


class Nothing(Exception):
    """A log does not hold what a figure shows; the message is the sentence that stands in its place."""


@dataclass(frozen=True)
class Panel:
    """A figure; ``paint`` draws into it, or raises :class:`Nothing` with the reason."""

    name: str  # of its files
    title: str
    caption: str  # one sentence
    paint: Callable[[Figure, Run], None]
    height: float = 3.9  # inches, at a width of 6.4


def draw(panel: Panel, run: Run) -> Figure:
    """The figure of a run; raises :class:`Nothing` where there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, panel.height), layout="constrained")
        panel.paint(figure, run)
    return figure
