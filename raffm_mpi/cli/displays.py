"""How a run shows itself to people: a live display on a terminal, one plain line a round elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from raffm_mpi.doctor.findings import Finding
from raffm_mpi.log import GLOBAL_MODEL, open_run


class PlainDisplay:
    """One line a round, with the newest evaluation, for logs and pipes."""

    def __init__(self, num_rounds: int, num_done: int = 0) -> None:
        self.num_rounds = num_rounds
        self.score = ""
        if num_done:
            print(f"going on after round {num_done}/{num_rounds}", flush=True)

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Print the round."""
        dropped = f", {row['num_dropped']} dropped" if row["num_dropped"] else ""
        print(
            f"round {row['round'] + 1}/{self.num_rounds}: train loss {row['train_loss']:.4f}, "
            f"{row['num_trained']} clients{dropped}, {row['bytes_down'] / 1e6:.1f} MB down, "
            f"{row['round_s']:.2f} s{_on_devices(row)}{self.score}",
            flush=True,
        )

    def evaluated(self, row: Mapping[str, Any], is_full: bool) -> None:
        """Remember the newest score of the full model for the next line."""
        if is_full:
            self.score = f"; {row['split']} {row['metric']} {row['score']:.4f} after round {row['round'] + 1}"

    def close(self) -> None:
        """Nothing to take down."""


def _on_devices(row: Mapping[str, Any]) -> str:
    """What a round took the clients' devices; nothing without such."""
    if np.isnan(row["virtual_round_s"]):
        return ""
    return f", on the devices {row['virtual_round_s']:,.1f} s and {row['energy_j'] / 1000:,.2f} kJ"


class LiveDisplay:
    """A progress bar with the newest loss and score."""

    def __init__(self, num_rounds: int, num_done: int = 0) -> None:
        self.progress = Progress(
            TextColumn("rounds"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.task = self.progress.add_task("", total=num_rounds, completed=num_done)
        self.loss, self.score = "", ""
        self.progress.start()

    def round_done(self, row: Mapping[str, Any]) -> None:
        """Advance the bar."""
        self.loss = f"train loss {row['train_loss']:.4f}"
        self.progress.update(self.task, advance=1, description=f"{self.loss}  {self.score}")

    def evaluated(self, row: Mapping[str, Any], is_full: bool) -> None:
        """Show the newest score of the full model."""
        if is_full:
            self.score = f"{row['split']} {row['metric']} {row['score']:.4f}"
            self.progress.update(self.task, description=f"{self.loss}  {self.score}")

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.progress.stop()


def make_display(num_rounds: int, num_done: int = 0) -> PlainDisplay | LiveDisplay:
    """The display that suits standard output, of a run with some rounds done before."""
    return (LiveDisplay if _on_terminal() else PlainDisplay)(num_rounds, num_done)


def _on_terminal() -> bool:
    """Whether a person watches: mpirun gives its ranks a pseudo-terminal, so the launcher's own output counts too."""
    try:
        launcher = os.readlink(f"/proc/{os.getppid()}/fd/1")
    except OSError:
        launcher = "/dev/tty"
    return sys.stdout.isatty() and Console().is_terminal and launcher.startswith(("/dev/pts/", "/dev/tty"))


def print_summary(output: Path) -> None:
    """What a finished run came to, and where its results are."""
    run = open_run(output)
    last = run.evaluation[run.evaluation["round"] == run.rounds["round"].max()].merge(run.submodels, on="submodel")
    print(f"\nfinished {len(run.rounds)} rounds in {run.rounds['round_s'].sum():.1f} s")
    for split, rows in last.groupby("split", observed=True):
        print(f"{split} {run.main_metric}, on {rows['num_examples'].iloc[0]} examples:")
        full = rows["parameters"].max()
        for row in rows.itertuples():
            share = row.parameters / full
            print(f"  {row.score:.4f}  with {row.parameters:,} parameters ({share:.0%} of the model)")
    for row in run.personal[run.personal["submodel"] == GLOBAL_MODEL].tail(1).itertuples():
        print(f"on the test shares of {row.num_clients} clients: mean {row.mean:.4f}, ", end="")
        print(f"worst tenth {row.worst_tenth:.4f}, best tenth {row.best_tenth:.4f}")
    print(f"log      {output / 'run.h5'}")
    print(f"model    {output / 'model'}")
    print(f"report   raffm-mpi report {output}")


def print_findings(findings: Sequence[Finding]) -> None:
    """The doctor's table, one line a topic; the levels in colour where a person watches."""
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        line = str(finding)
        if _on_terminal():
            console.print(f"[{colours[finding.level]}]{finding.level}[/]", escape(line[len(finding.level) :]), sep="")
        else:
            print(line, flush=True)
