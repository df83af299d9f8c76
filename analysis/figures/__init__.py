"""The figures of a report, each drawn from a log alone."""

from raffm_mpi.analysis.figures import clients, devices, groups, learning, submodels
from raffm_mpi.analysis.figures.panel import Nothing, Panel, draw

__all__ = ["SECTIONS", "Nothing", "Panel", "draw"]

# The sections of a report: a title, and its figures.
SECTIONS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Learning", learning.PANELS),
    ("Sub-models", submodels.PANELS),
    ("Clients", clients.PANELS),
    ("Devices", devices.PANELS),
    ("Client groups", groups.PANELS),
)
