"""The virtual clock: what a round takes the clients' devices, whatever it takes the machine that simulates them.

A client downloads, trains, uploads and waits for the end of the round, each at its device's speed and power. What
becomes of it follows from that alone, before anybody trains:

- ``unable``: its device cannot hold its sub-model, so it sits out;
- ``gone``: it drops out at some moment of its work, or can no longer be reached;
- ``late``: it would be ready after the deadline, and stops at it;
- ``surplus``: more clients were asked than are needed, and enough were ready before it;
- ``trained``: its update arrives.

The round ends when the last update that is needed arrives; where some never come, at the deadline if one is still at
work then, else when the last client has arrived or gone (a lost connection is noticed).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raffm_mpi.devices.fleet import Fleet
from raffm_mpi.seeds import generator

TRAINED = "trained"


@dataclass(frozen=True)
class Work:
    """What each client of a cohort would do: arrays ``[cohort]``."""

    bytes_down: np.ndarray  # int64
    flops: np.ndarray  # float64, of its local training
    bytes_up: np.ndarray  # int64
    able: np.ndarray  # bool: its device can hold its sub-model


@dataclass(frozen=True)
class VirtualRound:
    """A round on the clients' devices, all in virtual seconds from its start: arrays ``[cohort]``.

    Bytes and FLOPs are what was moved and computed before the client stopped.
    """

    start_s: float
    seconds: float
    device: np.ndarray  # int16
    status: np.ndarray  # text: trained, unable, gone, late or surplus
    download_s: np.ndarray
    train_s: np.ndarray
    upload_s: np.ndarray
    wait_s: np.ndarray
    energy_j: np.ndarray
    bytes_down: np.ndarray
    bytes_up: np.ndarray
    flops: np.ndarray

    @property
    def away(self) -> np.ndarray:
        """Positions in the cohort of those that give no update: int64."""
        return np.flatnonzero(self.status != TRAINED)


def simulate(
    fleet: Fleet, cohort: np.ndarray, work: Work, wanted: int, start_s: float, round_number: int, attempt: int = 0
) -> VirtualRound:
    """What becomes of a cohort of which the first ``wanted`` updates are needed."""
    whole_s = {
        "download": work.bytes_down / fleet.numbers("downlink_bytes_per_s", cohort),
        "train": work.flops / fleet.numbers("flops_per_s", cohort),
        "upload": work.bytes_up / fleet.numbers("uplink_bytes_per_s", cohort),
    }
    ready_s = whole_s["download"] + whole_s["train"] + whole_s["upload"]
    gone_s = _gone_s(fleet, cohort, ready_s, start_s, round_number, attempt)
    deadline_s = fleet.deadline_s
    arrives = work.able & (ready_s <= deadline_s) & (ready_s <= gone_s)
    first = np.flatnonzero(arrives)[np.argsort(ready_s[arrives], kind="stable")][:wanted]
    is_late = work.able & ~arrives & (gone_s > deadline_s)
    is_gone = work.able & ~arrives & ~is_late
    if len(first) == wanted:
        seconds = float(ready_s[first].max())
    elif is_late.any():
        seconds = deadline_s
    else:
        ends_s = np.where(arrives, ready_s, np.where(is_gone, gone_s, 0.0))
        seconds = float(ends_s.max(initial=0.0))
    status = np.full(len(cohort), "unable", dtype="<U8")
    status[work.able] = "surplus"  # whom the end of the round finds at work, or who is one too many
    status[is_late & (deadline_s <= seconds)] = "late"
    status[is_gone & (gone_s <= seconds)] = "gone"
    status[first] = TRAINED
    stop_s = np.where(work.able, np.minimum(np.where(is_gone, gone_s, np.inf), seconds), 0.0)
    done, left_s = {}, stop_s
    for phase, phase_s in whole_s.items():
        is_whole = (status == TRAINED) | (left_s >= phase_s)  # not by the difference: it may be one rounding short
        done[phase] = np.where(is_whole & work.able, phase_s, left_s)
        left_s = np.maximum(left_s - done[phase], 0)
    busy_s = sum(done.values(), np.zeros(len(cohort)))
    waits = work.able & (status != "gone")
    wait_s = np.where(waits, np.maximum(seconds - busy_s, 0), 0.0)
    transfer_s = done["download"] + done["upload"]
    energy_j = (
        fleet.numbers("compute_w", cohort) * done["train"]
        + fleet.numbers("transfer_w", cohort) * transfer_s
        + fleet.numbers("idle_w", cohort) * wait_s
    )
    return VirtualRound(
        start_s=start_s,
        seconds=seconds,
        device=fleet.of_client[cohort],
        status=status,
        download_s=done["download"],
        train_s=done["train"],
        upload_s=done["upload"],
        wait_s=wait_s,
        energy_j=energy_j,
        bytes_down=_moved(work.bytes_down, done["download"], whole_s["download"]),
        bytes_up=_moved(work.bytes_up, done["upload"], whole_s["upload"]),
        flops=work.flops * _part(done["train"], whole_s["train"]),
    )


def _gone_s(
    fleet: Fleet, cohort: np.ndarray, ready_s: np.ndarray, start_s: float, round_number: int, attempt: int
) -> np.ndarray:
    """When each client would drop out, in seconds from the round's start: inf where it stays."""
    gone_s = fleet.availability.until(start_s)[cohort] - start_s
    if fleet.settings.dropout:
        draws = np.array([generator(fleet.seed, "dropout", round_number, attempt, int(c)).random(2) for c in cohort])
        drops_s = np.where(draws[:, 0] < fleet.settings.dropout, draws[:, 1] * ready_s, np.inf)
        gone_s = np.minimum(gone_s, drops_s)
    return np.asarray(gone_s)


def _part(done_s: np.ndarray, whole_s: np.ndarray) -> np.ndarray:
    """The share of a phase that was done; 1 of one that takes no time."""
    return np.where(done_s >= whole_s, 1.0, done_s / np.where(whole_s > 0, whole_s, 1.0))


def _moved(num_bytes: np.ndarray, done_s: np.ndarray, whole_s: np.ndarray) -> np.ndarray:
    """The bytes that were moved: int64, all of them where the phase is whole."""
    return np.where(done_s >= whole_s, num_bytes, np.floor(num_bytes * _part(done_s, whole_s))).astype(np.int64)
