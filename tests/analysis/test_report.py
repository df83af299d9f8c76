"""The report shows what the log holds, says what it does not hold, and is legible in both cases."""

from __future__ import annotations

import base64
import contextlib
import itertools
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from raffm_mpi.analysis import figures
from raffm_mpi.analysis.report import main, title, write_report
from raffm_mpi.analysis.style import STYLE
from raffm_mpi.log import open_run
from support.made_logs import KINDS, NUM_CLIENTS, SIZES, WATTS, global_accuracy, write_run

PANELS = {panel.name: panel for _, panels in figures.SECTIONS for panel in panels}


def draw(folder: Path, name: str) -> Figure:
    with open_run(folder) as run, matplotlib.rc_context(STYLE):
        figure = figures.draw(PANELS[name], run)
        figure.draw_without_rendering()
    return figure


def drawn(folder: Path) -> dict[str, Figure]:
    """Every figure that the run gives."""
    found = {}
    for name in PANELS:
        with contextlib.suppress(figures.Nothing):
            found[name] = draw(folder, name)
    return found


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """``reported(kind)``: what the report of such a run wrote, once for all tests."""
    written = {}

    def write(kind: str) -> list[Path]:
        if kind not in written:
            written[kind] = write_report(write_run(tmp_path_factory.mktemp(kind), kind))
        return written[kind]

    return write


class Page(HTMLParser):
    """What a page holds, and whether its elements are closed."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [given[key] for key in ("src", "href") if key in given]
        self.ids += [given["id"]] if "id" in given else []
        self.images += [given] if tag == "img" else []
        assert tag != "script"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_gives_a_page_that_needs_nothing_else(reported, kind):
    page, *pictures = reported(kind)
    found = Page(page)
    assert found.open == []
    assert all(address.startswith(("data:", "#")) for address in found.addresses)
    assert {address[1:] for address in found.addresses if address.startswith("#")} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert len(found.images) == len(pictures) / 2
    assert {path.name for path in page.parent.iterdir()} == {path.name for path in (page, *pictures)}
    for image, path in zip(found.images, pictures[1::2], strict=True):
        assert base64.b64decode(image["src"].partition(",")[2]) == path.read_bytes()
        assert image["alt"].endswith(".")
    for path in pictures[::2]:
        assert imread(path)[..., :3].std() > 0.01  # something is drawn
    status = KINDS[kind]["status"]
    assert ("role" in page.read_text(encoding="utf-8")) == (status != "finished")
    assert status in found.text


def test_the_same_run_gives_the_same_bytes(reported, tmp_path):
    again = write_report(write_run(tmp_path, "devices"))
    for path, other in zip(reported("devices")[1:], again[1:], strict=True):
        assert path.read_bytes() == other.read_bytes()
    dated = write_report(tmp_path)[0].read_bytes()  # of the same log: its date is on the page
    assert dated == again[0].read_bytes()


def test_a_figure_that_a_run_no_longer_gives_is_gone(tmp_path):
    page, *_ = write_report(write_run(tmp_path, "devices"))
    assert (page.parent / "power.png").exists()
    (tmp_path / "run.h5").unlink()
    write_report(write_run(tmp_path, "full"))
    assert not (page.parent / "power.png").exists()


def test_lines_are_the_logged_values(tmp_path):
    score, loss = draw(write_run(tmp_path, "full"), "learning_by_num_rounds").axes
    lines = {line.get_label().split(",")[0]: line for line in score.lines}
    assert set(lines) == {"validation", "test"}
    for split, line in lines.items():
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 21))
        np.testing.assert_allclose(line.get_ydata(), global_accuracy(np.arange(20), split))
    lines = {line.get_label().split(",")[0]: line for line in loss.lines}
    np.testing.assert_allclose(lines["train"].get_ydata(), 2 / (1 + np.arange(20)))
    np.testing.assert_allclose(lines["validation"].get_ydata(), 2.5 / (1 + np.arange(20)))


@pytest.mark.parametrize(("cost", "each"), [("bytes", 3000), ("flops", 8e6), ("virtual_s", 10.0), ("energy_j", 50.0)])
def test_what_was_spent_adds_up_from_round_to_round(tmp_path, cost, each):
    score, _ = draw(write_run(tmp_path, "devices"), f"learning_by_{cost}").axes
    np.testing.assert_allclose(score.lines[0].get_xdata(), each * np.arange(1, 21))


def test_sub_models_are_the_evaluated_ones(tmp_path):
    (axes,) = draw(write_run(tmp_path, "full"), "submodels").axes
    order = np.argsort(SIZES)
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), SIZES[order])
    expected = np.array([global_accuracy(19, "validation"), 0.5, 0.6])[order]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)


def test_the_hexagons_count_every_score_of_a_client(tmp_path):
    axes, _ = draw(write_run(tmp_path, "devices"), "size_and_score").axes
    (mesh,) = axes.collections
    assert mesh.get_array().sum() == 3 * NUM_CLIENTS


def test_a_fraction_is_shown_in_per_cent_and_perplexity_as_it_is(tmp_path):
    fraction, _ = draw(write_run(tmp_path / "a", "full"), "learning_by_num_rounds").axes
    assert fraction.get_ylabel() == "accuracy (%)"
    assert fraction.lines[0].get_label().endswith(" %")
    perplexity, _ = draw(write_run(tmp_path / "b", "full", metric="perplexity"), "learning_by_num_rounds").axes
    assert perplexity.get_ylabel() == "perplexity"
    assert "%" not in perplexity.lines[0].get_label()
    assert "accuracy" not in Page(write_report(tmp_path / "b")[0]).text


@pytest.mark.parametrize("kind", ["full", "long"])
def test_the_heat_map_counts_every_client(tmp_path, kind):
    axes, _ = draw(write_run(tmp_path, kind), "trained_sizes").axes
    (mesh,) = axes.collections
    counts = mesh.get_array().filled(0)
    np.testing.assert_allclose(counts.sum(axis=0), 8)
    assert counts.shape[1] <= 60


def test_one_round_is_drawn_as_bars(tmp_path):
    (axes,) = draw(write_run(tmp_path, "one_round"), "trained_sizes").axes
    assert sum(bar.get_width() for bar in axes.patches) == 8


def test_participation_counts_clients_by_their_rounds(tmp_path):
    """Eight of twelve clients take part in all 20 rounds; one of them has dropped out of every one."""
    (axes,) = draw(write_run(tmp_path, "devices"), "participation").axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    asked = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars if bar.get_height()}
    assert asked == {0: 4, 20: 8}
    (_, legend) = draw(tmp_path, "fates").legends[0].get_texts()
    assert legend.get_text() == "gone: 20"


def test_label_shares_are_those_of_the_partition(tmp_path):
    axes, _ = draw(write_run(tmp_path, "devices"), "label_skew").axes
    (image,) = axes.images
    assert image.get_array().shape == (NUM_CLIENTS, 2)
    np.testing.assert_allclose(image.get_array().sum(axis=1), 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]


def test_idle_and_busy_times_are_those_of_the_groups(tmp_path):
    (axes,) = draw(write_run(tmp_path, "full"), "timeline").axes
    widths = [path.get_extents().width for bars in axes.collections[:4] for path in bars.get_paths()]
    np.testing.assert_allclose(widths, [2.0] * 20 + [0.0] * 20 + [1.5] * 20 + [0.5] * 20, atol=1e-9)
    figure = draw(tmp_path, "timeline")
    assert "idle (12.5% of all rounds)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_power_is_drawn_to_its_peak_and_the_devices_table_has_the_joules(reported, tmp_path):
    (axes,) = draw(write_run(tmp_path, "devices"), "power").axes
    assert axes.lines[0].get_ydata().max() == pytest.approx(8 * WATTS)
    page = Page(reported("devices")[0])
    assert "simulated peak power 40 W" in page.text
    assert "1 kJ" in page.text  # 20 rounds of 50 J


@pytest.mark.parametrize("kind", ["no_rounds", "no_evaluation", "full"])
def test_what_is_missing_is_said_once_instead_of_an_empty_figure(reported, kind):
    page, *pictures = reported(kind)
    text = Page(page).text
    assert text.count("Clients have no devices: nothing is known of their time and energy.") == 1
    assert ("No round has been committed." in text) == (kind == "no_rounds")
    assert ("No sub-model has been evaluated." in text) == (kind != "full")
    assert bool(pictures) == (kind != "no_rounds")


@pytest.mark.parametrize("kind", ["full", "long", "one_round", "devices"])
def test_nothing_overlaps_and_all_is_inside(tmp_path, kind):
    for name, figure in drawn(write_run(tmp_path, kind)).items():
        boxes = [axes.get_tightbbox() for axes in figure.axes] + [
            legend.get_window_extent() for legend in figure.legends
        ]
        for box in boxes:
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, name
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, name
        for one, other in itertools.combinations(boxes, 2):
            assert not one.padded(-1).overlaps(other.padded(-1)), name
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                ticks = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
                assert not any(one.overlaps(other) for one, other in itertools.combinations(ticks, 2)), name


@pytest.mark.parametrize("kind", ["devices", "one_round", "no_evaluation"])
def test_axes_name_quantity_and_unit(tmp_path, kind):
    for name, figure in drawn(write_run(tmp_path, kind)).items():
        *_, last = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        assert last.get_xlabel(), name
        for axes in figure.axes:
            assert axes.get_ylabel() or name == "energy", name
    assert "(parameters)" in draw(tmp_path, "trained_sizes").axes[0].get_ylabel()


def test_names_and_messages_are_text_and_never_markup(tmp_path):
    page = write_report(write_run(tmp_path, "devices", name="<script>alert(1)</script>"))[0]
    found = Page(page)  # which refuses a script
    assert "raffm on <script>alert(1)</script>" in found.text
    assert "client <b>3</b> is gone" in found.text


def test_of_a_long_name_the_end_is_shown(tmp_path):
    with open_run(write_run(tmp_path, "no_rounds", name="/scratch/" + 20 * "folder/" + "model-small")) as run:
        assert title(run).startswith("raffm on …") and title(run).endswith("/model-small")
        assert len(title(run)) == len("raffm on ") + 48


def test_the_command_prints_the_page_and_refuses_a_missing_run_in_one_line(tmp_path, capsys):
    assert main([str(write_run(tmp_path, "one_round"))]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'report' / 'report.html'}, and ")
    command = [sys.executable, "-m", "raffm_mpi.analysis.report", str(tmp_path / "nowhere")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "does not exist" in result.stderr
