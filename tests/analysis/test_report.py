"""The report draws what the log holds, says what it does not hold, and is legible in both cases."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from raffm_mpi.analysis.report import draw, main, write_report
from raffm_mpi.analysis.style import STYLE
from raffm_mpi.log import GLOBAL_MODEL, RunLog, open_run
from raffm_mpi.log.schema import ROUNDS

RANKS = [(0, "n1", "cpu", "server and client group")]

CONFIG = """
seed: 0
model: {{name: {name}, family: null}}
data: {{path: cifar10, partition: {{kind: dirichlet, alpha: 0.5}}}}
federation: {{num_clients: 100, participation: 0.1, num_rounds: 20}}
method: {{name: raffm}}
"""
SIZES = np.array([86_000_000, 30_000_000, 55_000_000])  # the full model comes first
KINDS = {
    "full": {"num_rounds": 20, "splits": ("validation", "test"), "submodels": True, "status": "finished"},
    "long": {"num_rounds": 130, "splits": ("validation", "test"), "submodels": True, "status": "finished"},
    "one_round": {"num_rounds": 1, "splits": ("validation",), "submodels": True, "status": "interrupted"},
    "no_evaluation": {"num_rounds": 5, "splits": (), "submodels": False, "status": "failed"},
    "no_rounds": {"num_rounds": 0, "splits": (), "submodels": False, "status": "running"},
}


def write_run(folder: Path, kind: str, name: str = "google/vit-base-patch16-224", metric: str = "accuracy") -> Path:
    num_rounds, splits, submodels, status = KINDS[kind].values()
    given = {"versions": {}, "commit": "0123abc", "hosts": ["n1"], "num_ranks": 1, "command": "raffm-mpi run"}
    given |= {"task": "image_classification", "metrics": [metric, "f1_macro"]}
    log = RunLog.create(
        folder, config=CONFIG.format(name=name), attributes=given, dimensions=[], label_names=[], ranks=RANKS
    )
    for round_ in range(num_rounds):
        write_round(log, round_)
        for split in splits:
            log.append("evaluation", **evaluation(round_, GLOBAL_MODEL, split, global_accuracy(round_, split)))
            if submodels and round_ == num_rounds - 1:
                log.append("evaluation", **evaluation(round_, np.arange(1, 3), split, np.array([0.5, 0.6])))
    log.commit()
    if status != "running":
        log.finish(status)
    return folder


def write_round(log: RunLog, round_: int) -> None:
    if round_ == 0:
        unseen = {"forward_flops": 1.0, "bytes": 4 * SIZES, "memory_bytes": 0, "sizes": np.zeros((3, 0), int)}
        log.append("submodels", submodel=np.arange(3), round=0, parameters=SIZES, **unseen)
    chosen = np.arange(round_, round_ + 8) % 3
    times = {"train_s": 1.0, "overhead_s": 0.1, "bytes_down": 1, "bytes_up": 1, "train_flops": 1.0}
    losses = {"first_loss": 2.0, "last_loss": 1.0, "mean_loss": 1.5}
    work = {"num_examples": 9, "num_steps": 1, "micro_batches": 1}
    virtual = {f"virtual_{phase}_s": np.nan for phase in ("download", "train", "upload", "wait")}
    work |= {"device": -1, "energy_j": np.nan, **virtual}
    clients = {"client": np.arange(8), "group": 0, "submodel": chosen, "parameters": SIZES[chosen], "status": "trained"}
    log.append("clients", round=round_, **clients, **times, **work, **losses)
    row = {column.name: 1 for column in ROUNDS.columns}
    log.append("rounds", **{**row, "round": round_, "train_loss": 2 / (1 + round_)})
    log.commit()


def global_accuracy(round_, split: str):
    return {"validation": 0.9, "test": 0.85}[split] - 0.8 / (1 + round_)


def evaluation(round_: int, submodel, split: str, score) -> dict:
    row = {"round": round_, "submodel": submodel, "split": split, "score": score}
    return {**row, "loss": 2.5 / (1 + round_), "num_examples": 100, "seconds": 1.0}


def draw_run(folder: Path) -> Figure:
    with open_run(folder) as run, matplotlib.rc_context(STYLE):
        figure = draw(run)
        figure.draw_without_rendering()
    return figure


def panel(figure: Figure, title: str):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(title))


def sentences(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_gives_a_png_and_an_svg(tmp_path, kind):
    paths = write_report(write_run(tmp_path, kind))
    assert [path.name for path in paths] == ["report.png", "report.svg"]
    assert imread(paths[0]).shape[:2] == (1230, 1920)
    assert paths[1].read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert {path.name for path in tmp_path.iterdir()} == {"run.h5", "report.png", "report.svg"}


def test_the_same_run_gives_the_same_picture(tmp_path):
    write_run(tmp_path, "full")
    first, second = ([path.read_bytes() for path in write_report(tmp_path)] for _ in range(2))
    assert first == second


def test_lines_are_the_logged_values(tmp_path):
    figure = draw_run(write_run(tmp_path, "full"))
    accuracy = {line.get_label().split(",")[0]: line for line in panel(figure, "Accuracy").lines}
    assert set(accuracy) == {"validation", "test"}
    for split, line in accuracy.items():
        np.testing.assert_allclose(line.get_ydata(), global_accuracy(np.arange(20), split))
    loss = {line.get_label().split(",")[0]: line for line in panel(figure, "Loss").lines}
    np.testing.assert_allclose(loss["train"].get_ydata(), 2 / (1 + np.arange(20)))
    np.testing.assert_allclose(loss["validation"].get_ydata(), 2.5 / (1 + np.arange(20)))
    (validation, _) = panel(figure, "Sub-models cut from the global model after round 19").lines
    np.testing.assert_array_equal(validation.get_xdata(), SIZES)
    np.testing.assert_allclose(validation.get_ydata(), [global_accuracy(19, "validation"), 0.5, 0.6])


def test_a_fraction_is_shown_in_per_cent_and_perplexity_as_it_is(tmp_path):
    fraction = panel(draw_run(write_run(tmp_path / "a", "full")), "Accuracy of the global model")
    assert fraction.get_ylabel() == "accuracy (%)"
    assert fraction.lines[0].get_label().endswith(" %")
    perplexity = panel(draw_run(write_run(tmp_path / "b", "full", metric="perplexity")), "Perplexity of the global")
    assert perplexity.get_ylabel() == "perplexity"
    assert "%" not in perplexity.lines[0].get_label()


@pytest.mark.parametrize(("kind", "clients_per_round"), [("full", 8), ("long", 8)])
def test_the_heat_map_counts_every_client(tmp_path, kind, clients_per_round):
    figure = draw_run(write_run(tmp_path, kind))
    (mesh,) = panel(figure, "Sub-models that clients trained").collections
    counts = mesh.get_array().filled(0)
    np.testing.assert_allclose(counts.sum(axis=0), clients_per_round)
    assert counts.shape[1] <= 60


def test_one_round_is_drawn_as_bars(tmp_path):
    figure = draw_run(write_run(tmp_path, "one_round"))
    bars = panel(figure, "Sub-models that clients trained").patches
    assert sum(bar.get_width() for bar in bars) == 8


def test_panels_say_what_is_missing(tmp_path):
    assert sentences(draw_run(write_run(tmp_path / "a", "full"))) == []
    no_evaluation = sentences(draw_run(write_run(tmp_path / "b", "no_evaluation")))
    assert no_evaluation == ["The global model has not been evaluated.", "No sub-model has been evaluated."]
    assert len(sentences(draw_run(write_run(tmp_path / "c", "no_rounds")))) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_overlaps_and_all_is_inside(tmp_path, kind):
    figure = draw_run(write_run(tmp_path, kind, name="/scratch/project/" + "a-very-long-folder-name/" * 6))
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [text.get_window_extent() for text in figure.texts]
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            ticks = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
            assert not any(one.overlaps(other) for one, other in itertools.combinations(ticks, 2))


@pytest.mark.parametrize("kind", ["full", "one_round", "no_evaluation"])
def test_axes_name_quantity_and_unit(tmp_path, kind):
    for axes in draw_run(write_run(tmp_path, kind)).axes:
        if axes.has_data():
            assert axes.get_ylabel()
            assert axes.get_xlabel() or axes.get_label() == "<colorbar>"
    # what has a unit says so
    assert panel(draw_run(tmp_path), "Sub-models that clients trained").get_ylabel().endswith("(parameters)")


def test_the_title_says_what_ran_and_how_far(tmp_path):
    title, facts = (text.get_text() for text in draw_run(write_run(tmp_path, "one_round")).texts)
    assert title == "raffm on google/vit-base-patch16-224"
    assert facts.startswith("1 of 20 rounds, interrupted")


def test_the_command_prints_paths_and_refuses_a_missing_run_in_one_line(tmp_path, capsys):
    assert main([str(write_run(tmp_path, "one_round"))]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "report.png"), str(tmp_path / "report.svg")]
    command = [sys.executable, "-m", "raffm_mpi.analysis.report", str(tmp_path / "nowhere")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "does not exist" in result.stderr
