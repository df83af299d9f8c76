"""Commands that look at runs, from their logs alone: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raffm_mpi.cli.base import app, exit_on_mistake


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The output folder of a run, or its run.h5")]) -> None:
    """Draw the first picture of a run: accuracy, loss and sub-models."""
    from raffm_mpi.analysis.report import write_report

    try:
        for path in write_report(run):
            print(path)
    except ValueError as error:
        exit_on_mistake(error)
