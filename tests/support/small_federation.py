"""A small federation, what it comes to undisturbed, and how a disturbed run is compared with that."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from raffm_mpi.log import open_run
from support import tiny
from support.waiting import TIMEOUT_S
from support.warm_server import warm_python

NUM_ROUNDS = 6
SETTINGS = {
    "model": {"family": "vit", "config": tiny.VIT},
    "federation": {"num_clients": 12, "participation": 0.5, "num_rounds": NUM_ROUNDS},
    "method": {"name": "raffm", "space": {"ffn": [0.25, 0.5, 1.0], "heads": [1, 2, 3], "head_width": [4, 8]}},
    "training": {"batch_size": 24, "local_epochs": 2, "learning_rate": 1.0e-3, "max_grad_norm": 1.0},
    "evaluation": {"batch_size": 64},
}

# What depends on who computed, and on how long it took.
_OF_THIS_MACHINE = {"group", "num_recoveries", "exchange_bytes", "seconds"}
_TABLES = (
    "rounds",
    "clients",
    "submodels",
    "partition",
    "devices",
    "evaluation",
    "metrics",
    "personal",
    "client_scores",
    "checkpoints",
)


def write_config(folder: Path) -> Path:
    """The federation's config, whose output is ``folder / "undisturbed"``."""
    data = {"path": "digits", "cache": str(folder / "cache"), "partition": {"kind": "dirichlet", "alpha": 0.5}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "output": str(folder / "undisturbed"), "data": data}))
    return path


def run_alone(config: Path, *arguments: str | Path, python: Sequence[str] | None = None):
    """``raffm-mpi run`` in one process, to its end."""
    words = [*(python or warm_python()), "-m", "raffm_mpi", "run", str(config), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S)


def differences(undisturbed: Path, output: Path) -> list[str]:
    """What a run that has to be finished has otherwise than the undisturbed one, in bits and rows; nothing if equal."""
    with open_run(undisturbed) as expected, open_run(output) as run:
        found = [] if run.status == "finished" else [f"the run is {run.status}"]
        sha256 = "final_model_sha256"
        if run.attributes.get(sha256) != expected.attributes[sha256]:
            found.append(f"{sha256} is {run.attributes.get(sha256)}, not {expected.attributes[sha256]}")
        for name in _TABLES:
            rows, wanted = getattr(run, name), getattr(expected, name)
            columns = [
                c for c in wanted.columns if c not in _OF_THIS_MACHINE and (c.startswith("virtual_") or c[-2:] != "_s")
            ]
            if len(rows) != len(wanted):
                found.append(f"{name} has {len(rows)} rows, not {len(wanted)}")
            elif not rows[columns].equals(wanted[columns]):
                found.append(f"{name} differs in {', '.join(c for c in columns if not rows[c].equals(wanted[c]))}")
    return found
