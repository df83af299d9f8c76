"""The HDF5 log."""

from __future__ import annotations

from raffm_mpi.config.base import SettingsGroup


class LogSettings(SettingsGroup):
    """How the log is written."""

    file_locking: bool = True
    """Whether HDF5 locks the file; some network disks cannot."""
    tensorboard: bool = False
    """Whether TensorBoard's event files are written, too, as the run goes on."""
