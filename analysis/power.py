"""Power of the clients' devices over virtual time, and their energy, from a log."""

from __future__ import annotations

import numpy as np
import pandas as pd

from raffm_mpi.log import Run

_PHASES = (("download", "transfer_w"), ("train", "compute_w"), ("upload", "transfer_w"), ("wait", "idle_w"))


def power_trace(run: Run) -> pd.DataFrame:
    """The summed power of all clients of the cohorts: columns ``virtual_s`` and ``power_w``.

    A row is a moment at which the power changes, and the power from then on. The integral over time is the energy in
    the log. Empty for a run without devices.
    """
    if run.devices.empty or run.rounds.empty:
        return pd.DataFrame({"virtual_s": np.zeros(0), "power_w": np.zeros(0)})
    clients = run.clients.merge(run.rounds[["round", "virtual_start_s"]], on="round").merge(run.devices, on="device")
    moment = clients["virtual_start_s"].to_numpy(float)
    moments, changes = [], []
    for phase, watts in _PHASES:
        seconds, power = clients[f"virtual_{phase}_s"].to_numpy(float), clients[watts].to_numpy(float)
        at_work = seconds > 0
        for when, sign in ((moment, 1.0), (moment + seconds, -1.0)):
            moments.append(when[at_work])
            changes.append(sign * power[at_work])
        moment = moment + seconds
    trace = pd.DataFrame({"virtual_s": np.concatenate(moments), "power_w": np.concatenate(changes)})
    changed = trace.groupby("virtual_s")["power_w"].sum()
    return pd.DataFrame({"virtual_s": changed.index, "power_w": changed.cumsum().clip(lower=0.0).to_numpy()})


def peak_w(run: Run) -> float:
    """The greatest power of all clients together, in watts; 0 without devices."""
    return float(power_trace(run)["power_w"].max()) if not run.devices.empty else 0.0


def energy_by_device(run: Run) -> pd.DataFrame:
    """Joules, virtual seconds of training and updates of each kind of device: one row a device, by its name."""
    names = run.devices.set_index("device")["name"]
    clients = run.clients.assign(name=run.clients["device"].map(names), trained=run.clients["status"] == "trained")
    return clients.groupby("name").agg(
        asked=("client", "size"),
        trained=("trained", "sum"),
        parameters=("parameters", "mean"),
        virtual_train_s=("virtual_train_s", "sum"),
        energy_j=("energy_j", "sum"),
    )
