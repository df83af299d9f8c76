"""The command line: ``raffm-mpi run`` and ``raffm-mpi report``."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raffm_mpi.config import Settings
    from raffm_mpi.federation.experiment import Look
    from raffm_mpi.federation.transport import Transport

DONE, FAILED, MISTAKE = 0, 1, 2

app = typer.Typer(
    help="Federated fine-tuning of transformers with resource-aware sub-models, on MPI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, such as configs/demo.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the run in an existing output folder")] = False,
) -> None:
    """Run a federation; under mpirun or srun, rank 0 is the server and the others are client groups."""
    from raffm_mpi.config import load_settings
    from raffm_mpi.federation.transport import Transport, UserMistake

    try:
        transport = Transport()
    except ValueError as error:
        _exit_on_mistake(error)
    try:
        settings = transport.together(lambda: load_settings(config, overrides))
        _prepare_libraries(settings.compute.threads_per_group)
        looked = transport.together(lambda: _look_first(settings, transport, overwrite))
        from raffm_mpi.federation.run import run as run_federation
        from raffm_mpi.progress import make_display, print_summary

        run_federation(settings, transport, make_display, overwrite, looked)
        if transport.rank == 0:
            print_summary(Path(settings.output))
    except UserMistake as mistake:
        _exit_on_mistake(mistake if transport.rank == 0 else None)
    except BaseException as error:
        traceback.print_exc()
        transport.abort(f"{type(error).__name__}: {error}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The output folder of a run, or its run.h5")]) -> None:
    """Draw the first picture of a run: accuracy, loss and sub-models."""
    from raffm_mpi.analysis.report import write_report

    try:
        for path in write_report(run):
            print(path)
    except ValueError as error:
        _exit_on_mistake(error)


def _look_first(settings: Settings, transport: Transport, overwrite: bool) -> Look | None:
    """Rank 0 looks for mistakes; the others load their libraries meanwhile, or sleep where cores are short."""
    if transport.rank == 0:
        from raffm_mpi.federation.run import look_first

        return look_first(settings, overwrite)
    if transport.node_size <= (os.cpu_count() or 1):
        from raffm_mpi.federation.experiment import import_ahead

        import_ahead()
    return None


def _prepare_libraries(threads: int) -> None:
    """What the libraries read when they are first imported: threads, and no progress bars."""
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")
    os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1")


def _exit_on_mistake(mistake: Exception | None) -> None:
    for sentence in str(mistake).splitlines() if mistake else ():
        print(f"raffm-mpi: {sentence}", file=sys.stderr)
    raise SystemExit(MISTAKE)


def main() -> None:
    """The entry point of ``raffm-mpi`` and ``python -m raffm_mpi``."""
    app()
