"""A calibration measures what a round does: the aggregator's and the method's own work, whichever they are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from support import tiny
from support.waiting import TIMEOUT_S
from support.warm_server import warm_python

PROGRAM = Path(__file__).parent / "programs" / "counted.py"
LORA = {"rank": 4, "ranks": [2, 4], "targets": None}
WITH_ADAPTERS = {"family": "vit", "config": tiny.VIT, "lora": LORA}
CASES = {
    "mean": {"method": {"name": "fedavg"}},
    "prism": {"method": {"name": "prism", "budget": {"kind": "drawn", "shares": [1.0, 0.6]}}},
    **{way: {"model": WITH_ADAPTERS, "aggregation": way} for way in ("hetlora", "flexlora", "stacking")},
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Seconds on a clock that a call of ``apply`` advances by 1, ``rewrite`` 10, ``contribution`` 100, ``add`` 1000."""
    folder = tmp_path_factory.mktemp("counted")
    configs = []
    for name, change in CASES.items():
        values = {
            "output": str(folder / "run"),
            "model": {"family": "vit", "config": tiny.VIT},
            "method": {"name": "fedavg"},
            "data": {"path": "digits", "cache": str(folder / "cache")},
            "federation": {"num_clients": 6, "participation": 0.5, "num_rounds": 1},
            **change,
        }
        configs.append(folder / f"{name}.yaml")
        configs[-1].write_text(yaml.safe_dump(values))
    command = [*warm_python(), PROGRAM, *configs]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 0, result.stderr
    return dict(zip(CASES, json.loads(result.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_commit_is_the_aggregators_apply_and_the_methods_rewrite(measured, name):
    assert measured[name]["commit_s"] == pytest.approx(11)
    assert measured[name]["commit_client_s"] == pytest.approx(0)


@pytest.mark.parametrize("name", CASES)
def test_an_update_is_the_aggregators_contribution_and_add(measured, name):
    assert measured[name]["update_s"] == pytest.approx(1100)
