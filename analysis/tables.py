"""Tables of estimates: Markdown for people, CSV for programs, LaTeX for papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds, and half the width of its 95 % interval (Student's t).

    >>> Estimate((1.0, 2.0, 3.0)).mean, round(Estimate((1.0, 2.0, 3.0)).half, 3)
    (2.0, 2.484)
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the values; NaN without any."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def half(self) -> float:
        """Half the width of the mean's interval; NaN for fewer than two values."""
        count = len(self.values)
        if count < 2:
            return math.nan
        spread = float(np.std(self.values, ddof=1))
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count)


@dataclass(frozen=True)
class Ratio:
    """Two quantities by matched seeds: the ratio of their means, and the least and greatest ratio of a seed.

    >>> ratio = Ratio((2.0, 6.0), (2.0, 2.0))
    >>> ratio.mean, ratio.low, ratio.high
    (2.0, 1.0, 3.0)
    """

    ones: tuple[float, ...]
    others: tuple[float, ...]  # more than 0

    @property
    def mean(self) -> float:
        """Ratio of the means; NaN without seeds."""
        return float(np.mean(self.ones) / np.mean(self.others)) if self.ones else math.nan

    @property
    def low(self) -> float:
        """The least ratio of a seed."""
        return float(np.min(np.divide(self.ones, self.others))) if self.ones else math.nan

    @property
    def high(self) -> float:
        """The greatest ratio of a seed."""
        return float(np.max(np.divide(self.ones, self.others))) if self.ones else math.nan


@dataclass(frozen=True)
class Shown:
    """A value for programs, and the text that people read for it."""

    value: str | int | float
    text: str


@dataclass(frozen=True)
class Column:
    """A column: its name for programs, its head for people, and how people see its numbers."""

    name: str
    head: str
    scale: float = 1.0  # what is shown is the number times this
    digits: int = 2


Cell = str | int | Estimate | Ratio | Shown


@dataclass(frozen=True)
class Table:
    """Rows of cells by the columns' names; ``caption`` says what they are of."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]

    def markdown(self) -> str:
        """The table with its caption."""
        heads = [column.head for column in self.columns]
        lines = [f"**{self.caption}**", "", line(heads), "|" + "---|" * len(heads)]
        lines += [line(row) for row in self._shown()]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A table environment with the rules of the booktabs package."""
        frame = pd.DataFrame(self._shown(), columns=[column.head for column in self.columns])
        styler = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
        text = styler.to_latex(
            hrules=True,
            caption=_escaped(self.caption),
            label=f"tab:{self.name}",
            position="t",
            column_format="l" + "r" * (len(self.columns) - 1),
        )
        return str(text).replace("±", r"$\pm$").replace("–", "--")

    def frame(self) -> pd.DataFrame:
        """Numbers in their units, for programs.

        An estimate is three columns: its mean, half its interval (``_interval``) and its number of seeds (``_seeds``);
        a ratio is four: itself, its range (``_low``, ``_high``) and ``_seeds``. A table without rows has its heads.
        """
        rows = []
        for row in self.rows:
            cells: dict[str, str | int | float] = {}
            for column in self.columns:
                cell = row[column.name]
                if isinstance(cell, Estimate):
                    cells |= {column.name: cell.mean, f"{column.name}_interval": cell.half}
                    cells[f"{column.name}_seeds"] = len(cell.values)
                elif isinstance(cell, Ratio):
                    cells |= {column.name: cell.mean, f"{column.name}_low": cell.low, f"{column.name}_high": cell.high}
                    cells[f"{column.name}_seeds"] = len(cell.ones)
                elif isinstance(cell, Shown):
                    cells[column.name] = cell.value
                else:
                    cells[column.name] = cell
            rows.append(cells)
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[column.name for column in self.columns])

    def _shown(self) -> list[list[str]]:
        return [[_show(row[column.name], column) for column in self.columns] for row in self.rows]


def _show(cell: Cell, column: Column) -> str:
    if isinstance(cell, Shown):
        return cell.text
    if not isinstance(cell, Estimate | Ratio):
        return f"{cell:,}" if isinstance(cell, int) else cell
    if math.isnan(cell.mean):
        return "–"
    if isinstance(cell, Ratio):
        shown = f"{cell.mean:.{column.digits}f}"
        return shown if len(cell.ones) < 2 else f"{shown} ({cell.low:.{column.digits}f}–{cell.high:.{column.digits}f})"
    mean, half = cell.mean * column.scale, cell.half * column.scale
    shown = f"{mean:,.{column.digits}f}"
    return shown if math.isnan(half) else f"{shown} ± {half:,.{column.digits}f}"


def line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _escaped(text: str) -> str:
    return text.translate(_LATEX)
