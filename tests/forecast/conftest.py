"""A small federation to plan, and a calibration with round numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raffm_mpi.config import Settings
from raffm_mpi.forecast.calibration import Calibration
from support import tiny

SETTINGS = {
    "output": "runs/none",
    "model": {"family": "vit", "config": tiny.VIT},
    "data": {"path": "digits", "partition": {"kind": "dirichlet", "alpha": 0.5}},
    "federation": {"num_clients": 12, "participation": 0.5, "num_rounds": 2},
    "method": {
        "name": "raffm",
        "budget": {"kind": "drawn", "shares": [0.5, 0.8]},
        "space": {"ffn": [0.25, 0.5, 1.0], "heads": [1, 2, 3], "head_width": [4, 8]},
    },
    "training": {"batch_size": 8, "learning_rate": 1.0e-3},
    "evaluation": {"every": 2},
}

CALIBRATION = {
    "device": "cpu",
    "device_name": "a processor",
    "cores": 2,
    "num_groups": 2,
    "threads": 1,
    "precision": "fp32",
    "parameters": 1000,
    "memory_bytes": 8_000_000_000,
    "process_bytes": 500_000_000,
    "training_flops_per_s": 1.0e9,
    "evaluation_flops_per_s": 2.0e9,
    "base_s": 0.5,
    "update_bytes_per_s": 1000.0,
    "derive_client_s": 0.25,
    "pack_bytes_per_s": 4000.0,
    "commit_bytes_per_s": 8000.0,
    "commit_client_s": 0.5,
    "checkpoint_bytes_per_s": 1.0e6,
    "exchange": {
        "num_ranks": 3,
        "num_hosts": 1,
        "latency_s": 0.125,
        "broadcast_bytes_per_s": 4000.0,
        "reduce_bytes_per_s": 2000.0,
    },
    "versions": {"torch": "2"},
}


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    """Round numbers, of two groups on one node."""
    return Calibration.model_validate(CALIBRATION)


def settings(cache: Path, **groups: dict[str, Any]) -> Settings:
    """The small federation, groups of its settings replaced or added to, with the data's cache in a folder."""
    data = {**SETTINGS["data"], "cache": str(cache), **groups.get("data", {})}
    return Settings.model_validate({**SETTINGS, **groups, "data": data})


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Settings]:
    """``planned(method={…}, …)``: the settings of the small federation, for which nothing is prepared."""
    return lambda **groups: settings(tmp_path / "cache", **groups)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small federation as a file."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "planned.yaml").write_text(settings(folder / "cache").to_yaml())
    return folder / "planned.yaml"


@pytest.fixture
def calibration_file(tmp_path: Path) -> Callable[..., Path]:
    """``calibration_file(change)``: the calibration as a file, after ``change(values)``."""

    def make(change: Callable[[dict[str, Any]], Any] = lambda values: None) -> Path:
        values = yaml.safe_load(yaml.safe_dump(CALIBRATION))
        change(values)
        path = tmp_path / "calibration.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return make
