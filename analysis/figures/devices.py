"""The clients' simulated devices: power against simulated time."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from raffm_mpi.analysis.figures.panel import Nothing, Panel
from raffm_mpi.analysis.power import energy_by_device, power_trace
from raffm_mpi.analysis.style import PALETTE
from raffm_mpi.log import Run
from raffm_mpi.messages import quantity

MAX_STEPS = 2000  # of the line; with more, the highest and the lowest of each stretch are drawn
NONE = "Clients have no devices: nothing is known of their time and energy."


def _power(figure: Figure, run: Run) -> None:
    trace = power_trace(run)
    if trace.empty:
        raise Nothing(NONE)
    axes = figure.subplots()
    peak = trace["power_w"].max()
    moments, power = trace["virtual_s"].to_numpy(float), trace["power_w"].to_numpy(float)
    if len(trace) > MAX_STEPS:
        stretch = np.minimum((np.arange(len(trace)) * MAX_STEPS // 2) // len(trace), MAX_STEPS // 2 - 1)
        grouped = trace.groupby(stretch)
        first = grouped["virtual_s"].first()
        axes.fill_between(
            first, grouped["power_w"].min(), grouped["power_w"].max(), step="post", color=PALETTE[0], linewidth=0.4
        )
    else:
        axes.step(moments, power, where="post", color=PALETTE[0], linewidth=1.2)
        axes.fill_between(moments, power, step="post", color=PALETTE[0], alpha=0.2, linewidth=0)
    axes.axhline(peak, color=PALETTE[1], linestyle="--", linewidth=1.4, label=f"peak {quantity(peak, 'W')}")
    axes.set_xlabel("simulated time (s)")
    axes.set_ylabel("power of all clients' devices (W)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.15 * peak)
    axes.legend(loc="upper right")


def _energy(figure: Figure, run: Run) -> None:
    if run.devices.empty or run.clients.empty:
        raise Nothing(NONE)
    table = energy_by_device(run).sort_values("energy_j")
    axes = figure.subplots()
    bars = axes.barh(table.index, table["energy_j"], color=PALETTE[0])
    axes.bar_label(bars, [f" {quantity(joules, 'J')}" for joules in table["energy_j"]])
    axes.set_xlabel("energy in all rounds (J)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.margins(x=0.16)
    axes.grid(visible=False, axis="y")


PANELS = (
    Panel(
        "power",
        "Power against simulated time",
        "What the devices of each round's clients draw together: training, transferring, and waiting for its end.",
        _power,
    ),
    Panel("energy", "Energy by device", "Joules that each kind of device took in all rounds.", _energy),
)
