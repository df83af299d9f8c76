"""Follow a run in the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raffm_mpi.analysis.quantities import main_split
from raffm_mpi.analysis.style import is_fraction, words
from raffm_mpi.log import GLOBAL_MODEL, Run, open_run, records
from raffm_mpi.log.schema import log_file
from raffm_mpi.messages import quantity

_LAST_ROUNDS = 8
_LAST_EVENTS = 5
_QUIET_S = 60.0  # a run whose log did not change for so long is said to be quiet
_BARS = "▁▂▃▄▅▆▇█"


def watch(run_folder: str | Path, every_s: float = 2.0, once: bool = False, console: Console | None = None) -> None:
    """Show a run until it ends: in place on a terminal, elsewhere a line for each round.

    A run that has not begun is waited for, but not with ``once``: that raises UserMistake, as does a log that cannot be
    read.
    """
    console = console or Console()
    if not once and not log_file(run_folder).exists():
        console.print(f"waiting for a run in '{run_folder}'")
        while not log_file(run_folder).exists():
            time.sleep(every_s)
    if console.is_terminal and not once:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                with open_run(run_folder) as run:
                    live.update(screen(run), refresh=True)
                    if run.status != "running":
                        return
                time.sleep(every_s)
    shown = 0
    while True:
        with open_run(run_folder) as run:
            if once and console.is_terminal:
                console.print(screen(run))
                return
            for line in lines(run, shown):
                print(line, file=console.file, flush=True)
            shown = len(run.rounds)
            if once or run.status != "running":
                return
        time.sleep(every_s)


def lines(run: Run, shown: int = 0) -> list[str]:
    """A plain line for each round from number ``shown`` on, and one for the state."""
    total = run.config["federation"]["num_rounds"]
    scores = _scores(run).set_index("round")["score"]
    found = []
    for row in records(run.rounds.iloc[shown:]):
        score = f", {_score(run, scores[row['round']])}" if row["round"] in scores.index else ""
        clients = f"{row['num_trained']} of {row['num_clients']} clients"
        spent = f"{quantity(row['bytes_down'] + row['bytes_up'], 'B')}, {quantity(row['round_s'], 's')}"
        found.append(f"round {row['round'] + 1}/{total}: train loss {row['train_loss']:.4f}, {clients}, {spent}{score}")
    if not shown or run.status != "running":
        found.append(state(run))
    return found


def screen(run: Run) -> RenderableType:
    """What the terminal shows."""
    config = run.config
    model = config["model"]["name"] or config["model"]["family"]
    title = Text(f"{config['method']['name']} on {Path(str(model)).name}", style="bold")
    parts: list[RenderableType] = [title, Text(state(run)), _rounds(run)]
    trend = _trend(run)
    if trend:
        parts.append(Text(trend))
    if len(run.groups):
        parts.append(_groups(run))
    for row in records(run.events.tail(_LAST_EVENTS)):
        parts.append(Text(f"{row['kind']}, round {row['round'] + 1}: {row['message']}"))
    return Group(*parts)


def state(run: Run) -> str:
    """How many rounds are done, and how long the others will take."""
    total, done = run.config["federation"]["num_rounds"], len(run.rounds)
    spent_s = float(run.rounds["round_s"].sum())
    text = f"{run.status}: {done} of {total} rounds, {quantity(spent_s, 's')}"
    if run.status == "running":
        if done:
            text += f", some {quantity(float(run.rounds['round_s'].tail(10).mean()) * (total - done), 's')} left"
        quiet_s = time.time() - run.path.stat().st_mtime
        if quiet_s > max(_QUIET_S, 5 * float(run.rounds["round_s"].max() if done else 0)):
            text += f"; quiet for {quantity(quiet_s, 's')}"
    return text


def _rounds(run: Run) -> Table:
    """The last rounds."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    has_devices = not run.devices.empty
    heads = ["round", "train loss", "trained", "traffic", "time", *(["simulated", "energy"] if has_devices else [])]
    for head in heads:
        table.add_column(head, justify="right")
    for row in records(run.rounds.tail(_LAST_ROUNDS)):
        cells = [
            str(row["round"] + 1),
            f"{row['train_loss']:.4f}",
            f"{row['num_trained']} of {row['num_clients']}",
            quantity(row["bytes_down"] + row["bytes_up"], "B"),
            quantity(row["round_s"], "s"),
        ]
        if has_devices:
            cells += [quantity(row["virtual_round_s"], "s"), quantity(row["energy_j"], "J")]
        table.add_row(*cells)
    return table


def _groups(run: Run) -> Table:
    """What each client group did in the last round."""
    groups = run.groups[run.groups["round"] == run.groups["round"].max()].merge(run.ranks, on="rank", how="left")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("group", "on", "clients", "trained for", "predicted", "idle"):
        table.add_column(head, justify="left" if head == "on" else "right")
    for row in records(groups):
        place = f"{row['host']} {row['device']}" if isinstance(row["host"], str) else "unknown"
        seconds = (quantity(value, "s") for value in (row["actual_s"], row["predicted_s"], row["idle_s"]))
        table.add_row(str(row["group"]), place, str(row["num_clients"]), *seconds)
    return table


def _scores(run: Run) -> pd.DataFrame:
    """Evaluations of the full model on the split that curves are of."""
    evaluation = run.evaluation
    chosen = (evaluation["submodel"] == GLOBAL_MODEL) & (evaluation["split"] == main_split(run))
    found: pd.DataFrame = evaluation[chosen]
    return found


def _score(run: Run, score: float) -> str:
    value = f"{100 * score:.2f} %" if is_fraction(run.main_metric) else f"{score:.4g}"
    return f"{main_split(run)} {words(run.main_metric)} {value}"


def _trend(run: Run) -> str:
    """The newest score, and the scores as a row of bars; empty without one."""
    scores = _scores(run)
    if scores.empty:
        return ""
    newest = f"{_score(run, scores['score'].iloc[-1])} after round {scores['round'].iloc[-1] + 1}"
    return f"{newest}  {bars(scores['score'].tail(40))}"


def bars(values: Sequence[float] | pd.Series[float]) -> str:
    """Numbers as a row of bars, the least the lowest.

    >>> bars([1.0, 2.0, 3.0, 2.0])
    '▁▅█▅'
    """
    numbers = np.asarray(values, float)
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    heights = np.nan_to_num((numbers - low) / (high - low or 1) * (len(_BARS) - 1)).round().astype(int)
    return "".join(_BARS[height] for height in heights)
