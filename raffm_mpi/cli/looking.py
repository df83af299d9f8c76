"""Commands that look at runs, from their logs alone: report, compare, watch, tensorboard."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from raffm_mpi.cli.base import app
from raffm_mpi.errors import UserMistake
from raffm_mpi.messages import say


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The output folder of a run, or its run.h5")]) -> None:
    """Write the report of a run, finished or not: one page in its folder report/, and each figure as PNG and SVG."""
    from raffm_mpi.analysis.report import write_report

    page, *drawn = write_report(run)
    print(f"{page}, and {len(drawn)} figures beside it")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, logs, or folders of sweeps")],
    output: Annotated[Path, typer.Option(help="The folder to write")] = Path("comparison"),
    target: Annotated[list[float] | None, typer.Option(help="A score whose cost is asked for, as 0.8")] = None,
    budget: Annotated[list[str] | None, typer.Option(help="A budget whose score is asked for, as bytes=1e9")] = None,
    split: Annotated[str | None, typer.Option(help="validation or test; validation where there is one")] = None,
    against: Annotated[str | None, typer.Option(help="The group that ratios are to; the first if left out")] = None,
    diff: Annotated[bool, typer.Option(help="Only say what two runs differ in")] = False,
) -> None:
    """Compare runs over their seeds: tables as Markdown, CSV and LaTeX, and figures.

    Runs that differ in their seed alone are a group. Exit status: 0 done, 2 a mistake of yours.
    """
    from raffm_mpi.analysis.compare import compare as write_comparison
    from raffm_mpi.analysis.comparison import gather
    from raffm_mpi.analysis.difference import difference

    if diff:
        if len(runs) != 2:
            raise UserMistake(f"--diff takes two runs, not {len(runs)}")
        print(difference(*runs), end="")
        return
    if split not in (None, "validation", "test"):
        raise UserMistake(f"unknown split '{split}'; known: validation, test")
    found, missing = gather(runs)
    for sentence in missing:
        say(sentence)
    tables = write_comparison(found, output, target or (), _budgets(budget or ()), split, against)
    for table in tables:
        print(table.markdown())
    print(f"in {output}: comparison.md, comparison.tex, a CSV file a table, and figures")


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="The output folder of a run, or its run.h5")],
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks")] = 2.0,
    once: Annotated[bool, typer.Option(help="Look once")] = False,
) -> None:
    """Follow a run in the terminal until it ends; one that has not begun is waited for."""
    from raffm_mpi.analysis.watch import watch as follow

    try:
        follow(run, every, once)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@app.command()
def tensorboard(
    run: Annotated[Path, typer.Argument(help="The output folder of a run, or its run.h5")],
    output: Annotated[Path | None, typer.Option(help="The folder to write, if not tensorboard/ in the run's")] = None,
) -> None:
    """Write the numbers of a run as TensorBoard's event files; log.tensorboard=true does so as a run goes on."""
    from raffm_mpi.log import open_run
    from raffm_mpi.log.tensorboard import FOLDER, export

    with open_run(run) as log:
        folder = output or log.path.parent / FOLDER
        export(log, folder).close()
    print(f"tensorboard --logdir {folder}")


def _budgets(words: Iterable[str]) -> list[tuple[str, float]]:
    """Costs and their budgets; raises UserMistake for a word that is not of the form bytes=1e9."""
    found = []
    for word in words:
        name, equals, text = word.partition("=")
        try:
            found.append((name, float(text)))
        except ValueError:
            equals = ""
        if not equals:
            raise UserMistake(f"--budget '{word}' is not of the form COST=NUMBER, as bytes=1e9")
    return found
