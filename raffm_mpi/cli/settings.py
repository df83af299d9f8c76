"""The command that says what every setting means: settings."""

from __future__ import annotations

from typing import Annotated

import typer

from raffm_mpi.cli.base import app


@app.command()
def settings(
    group: Annotated[str | None, typer.Argument(help="A group, as training or data.partition; all if left out")] = None,
    markdown: Annotated[bool, typer.Option(help="Print all of them as the page docs/settings.md")] = False,
) -> None:
    """Say what every setting of a config means, what it may be, and its default."""
    from raffm_mpi.config import describe

    print(describe.markdown().rstrip("\n") if markdown else describe.text(group))
