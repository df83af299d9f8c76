"""The report of a run: one HTML page of figures and tables that needs no other file."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np

from raffm_mpi.analysis import figures
from raffm_mpi.analysis.power import energy_by_device, peak_w
from raffm_mpi.analysis.quantities import costs
from raffm_mpi.analysis.style import STYLE, is_fraction, save, words
from raffm_mpi.errors import UserMistake
from raffm_mpi.files import write_text
from raffm_mpi.log import GLOBAL_MODEL, Run, open_run, records
from raffm_mpi.messages import quantity

MAX_EVENTS = 200  # on the page
MAX_NAME = 48  # letters of a model's
FOLDER = "report"  # in the run's
_PAGE = Path(__file__).with_name("report.html.jinja")
_STATES = {
    "running": "This run is under way, or it was killed: its log cannot know. What was committed until now is here.",
    "interrupted": "This run was interrupted; --resume goes on with it.",
    "failed": "This run failed. What was committed before is here.",
}


@dataclass(frozen=True)
class Figure:
    """A figure on the page: its picture as a data URL, or the sentence that replaces it."""

    name: str
    title: str
    caption: str
    address: str = ""
    missing: str = ""


def write_report(run_folder: str | Path) -> list[Path]:
    """Write ``report/report.html`` and every figure as PNG and SVG into the folder of a run, whatever its state.

    Returns their paths, the page first. Raises UserMistake where the log cannot be read, as
    :func:`raffm_mpi.log.open_run`.
    """
    with open_run(run_folder) as run, matplotlib.rc_context(STYLE):
        folder = run.path.parent / FOLDER
        folder.mkdir(exist_ok=True)
        drawn: list[Path] = []
        sections = [
            (title, [_figure(panel, run, folder, drawn) for panel in panels]) for title, panels in figures.SECTIONS
        ]
        page = folder / "report.html"
        write_text(page, render(run, sections))
    return [page, *drawn]


def _figure(panel: figures.Panel, run: Run, folder: Path, drawn: list[Path]) -> Figure:
    """Draw a figure into its files, which are added to ``drawn``."""
    own = (panel.name, panel.title, panel.caption)
    try:
        paths = save(figures.draw(panel, run), folder, panel.name)
    except figures.Nothing as reason:
        for kind in ("png", "svg"):  # of an earlier report
            (folder / f"{panel.name}.{kind}").unlink(missing_ok=True)
        return Figure(*own, missing=str(reason))
    drawn += paths
    content = base64.b64encode(paths[-1].read_bytes()).decode()
    return Figure(*own, address=f"data:image/svg+xml;base64,{content}")


def render(run: Run, sections: Sequence[tuple[str, Sequence[Figure]]]) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_PAGE.name).render(
        title=title(run),
        state="" if run.status == "finished" else _STATES[run.status],
        facts=dict(_facts(run)),
        scores=_scores(run),
        devices=_devices(run),
        sections=sections,
        events=records(run.events.tail(MAX_EVENTS)),
        num_more=max(len(run.events) - MAX_EVENTS, 0),
        config=run.attributes["config"],
        origin=dict(_origin(run)),
    )


def title(run: Run) -> str:
    """The title: method and model."""
    model = run.config["model"]
    name = str(model["name"] or model["family"])
    shown = name if len(name) <= MAX_NAME else "…" + name[1 - MAX_NAME :]  # the end says more than the beginning
    return f"{run.config['method']['name']} on {shown}"


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    """The most important numbers of the run, by name."""
    config, spent = run.config, costs(run).iloc[-1]
    data, federation = config["data"], config["federation"]
    partition = data["partition"]["kind"]
    if partition == "dirichlet":
        partition += f" {data['partition']['alpha']:g}"
    yield "status", run.status
    yield "rounds", f"{len(run.rounds)} of {federation['num_rounds']}"
    yield "data", f"{Path(data['path']).name}, {partition}"
    clients = len(run.partition) or federation["num_clients"]
    yield "clients", f"{clients:,}, {100 * federation['participation']:g} % a round"
    yield "seed", str(config["seed"])
    full = run.evaluation[run.evaluation["submodel"] == GLOBAL_MODEL]
    for split, rows in full.groupby("split", observed=True):
        yield f"{split} {words(run.main_metric)}", _score(run, rows["score"].iloc[-1])
    yield "simulated traffic", quantity(spent["bytes"], "B")
    yield "simulated training", quantity(spent["flops"], "FLOP")
    if not run.devices.empty:
        yield "simulated time", quantity(spent["virtual_s"], "s")
        yield "simulated energy", quantity(spent["energy_j"], "J")
        yield "simulated peak power", quantity(peak_w(run), "W")
    yield "real time of the rounds", quantity(spent["real_s"], "s")


def _score(run: Run, score: float) -> str:
    if np.isnan(score):
        return "not a number"
    return f"{100 * score:.2f} %" if is_fraction(run.main_metric) else f"{score:.4g}"


def _scores(run: Run) -> list[dict[str, Any]]:
    """A row for each sub-model with its newest evaluation, the largest first."""
    newest = run.evaluation.drop_duplicates(["submodel", "split"], keep="last")
    newest = newest.merge(run.submodels[["submodel", "parameters", "bytes", "forward_flops"]], on="submodel")
    if newest.empty:
        return []
    full = newest["parameters"].max()
    rows = []
    for (parameters, _), table in sorted(newest.groupby(["parameters", "submodel"]), reverse=True):
        first = table.iloc[0]
        by_split = dict(zip(table["split"].astype(str), table["score"], strict=True))
        rows.append(
            {
                "parameters": f"{parameters:,}",
                "share": f"{parameters / full:.0%}",
                "size": quantity(first["bytes"], "B"),
                "flops": quantity(first["forward_flops"], "FLOP"),
                "round": first["round"] + 1,
                "validation": _score(run, by_split["validation"]) if "validation" in by_split else "",
                "test": _score(run, by_split["test"]) if "test" in by_split else "",
            }
        )
    return rows


def _devices(run: Run) -> list[dict[str, Any]]:
    """A row for each kind of device with what it did."""
    if run.devices.empty:
        return []
    table = energy_by_device(run).join(run.devices.set_index("name")["num_clients"])
    return [
        {
            "name": name,
            "clients": f"{row['num_clients']:,}",
            "asked": f"{row['asked']:,}",
            "trained": f"{row['trained']:,}",
            "parameters": f"{row['parameters']:,.0f}",
            "seconds": quantity(row["virtual_train_s"] / max(row["trained"], 1), "s"),
            "joules": quantity(row["energy_j"], "J"),
        }
        for name, row in table.to_dict("index").items()
    ]


def _origin(run: Run) -> Iterator[tuple[str, str]]:
    """Date, command, fingerprints, libraries and ranks of the run."""
    attributes = run.attributes
    for name in ("date", "command", "commit", "run_id", "final_model_sha256", "data_sha256", "model_sha256"):
        if attributes.get(name):
            yield name, str(attributes[name])
    yield "raffm_mpi", str(attributes["software_version"])
    for name, version in attributes.get("versions", {}).items():
        yield name, str(version)
    for row in run.ranks.itertuples():
        yield f"rank {row.rank}", f"{row.role} on {row.host}, {row.device}"


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m raffm_mpi.analysis.report RUN``: write the report and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m raffm_mpi.analysis.report", description=__doc__)
    parser.add_argument("run", help="the folder of a run")
    try:
        page, *drawn = write_report(parser.parse_args(arguments).run)
        print(f"{page}, and {len(drawn)} figures beside it")
    except UserMistake as error:
        print(error, file=sys.stderr)
        return UserMistake.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
