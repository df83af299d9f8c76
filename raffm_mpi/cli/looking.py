"""Commands that look at runs, from their logs alone: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raffm_mpi.cli.base import app, exit_on_mistake


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The output folder of a run, or its run.h5")]) -> None:
    """Write the report of a run, finished or not: one page in its folder report/, and each figure as PNG and SVG."""
    from raffm_mpi.analysis.report import write_report

    try:
        page, *drawn = write_report(run)
        print(f"{page}, and {len(drawn)} figures beside it")
    except ValueError as error:
        exit_on_mistake(error)
