"""The paper's ablation of salient parameter prioritization: what the order of parameters is worth to what is cut out.

    python benchmarks/paper_salience.py cifar10 ../shared/data/cifar10 OUTPUT [seeds] [--full]
    python benchmarks/paper_salience.py sst2 ../shared/data/sst2 OUTPUT [seeds] [--full]
    python benchmarks/paper_salience.py table OUTPUT

RaFFM with the sandwich rule, and heads that get narrower, since the paper's rule orders the key dimensions inside each
head. Sub-models are cut out after training, without more of it. Runs that OUTPUT holds already are not run again.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads import changed, command, finished, full_size, place, reduced, run_missing, spread

from raffm_mpi.log import open_run

RULES = {
    "no order": "none",
    "the paper's: queries and keys": "paper",
    "magnitude, all axes": "all",
    "first order, all axes": "first_order",
}
SPACE = {
    "cifar10": {"ffn": [0.25, 0.5, 0.75, 1.0], "head_width": [8, 12, 16]},
    "sst2": {"ffn": [0.25, 0.5, 0.75, 1.0], "head_width": [16, 24, 32]},
}
FULL_SPACE = {"ffn": [768, 1536, 2304, 3072], "head_width": [32, 48, 64]}


def run(workload: str, folder: str, output: Path, seeds: int, at_full_size: bool) -> None:
    base = full_size(workload, folder) if at_full_size else reduced(workload, folder)
    base = base if at_full_size else changed(base, {"reliability": {"checkpoint_every": None}})
    space = FULL_SPACE if at_full_size else SPACE[workload]
    run_missing(
        {
            place(output, workload, name, seed): changed(
                base, {"method": {"name": "raffm", "salience": rule, "space": space}, "seed": seed}
            )
            for seed in range(seeds)
            for name, rule in RULES.items()
        }
    )


def ladder(folder: Path) -> dict[float, float]:
    """Test score of each sub-model that was evaluated, by its share of the parameters, largest first."""
    with open_run(folder) as log:
        test = log.evaluation[log.evaluation["split"] == "test"].merge(log.submodels, on="submodel")
        share = test["parameters"] / log.submodels["parameters"][0]
        found = dict(zip(share, test["score"], strict=True))
    return dict(sorted(found.items(), reverse=True))


def table(output: Path, workload: str) -> Iterator[str]:
    found = {name: [ladder(folder) for folder in finished(output, workload, name)] for name in RULES}
    rungs = [list(run) for runs in found.values() for run in runs]
    if not rungs:
        return
    assert all(run == rungs[0] for run in rungs), "runs of different spaces"
    columns = ["order", *(f"{share:.0%}" for share in rungs[0]), "smallest, less that of no order", "seeds"]
    yield f"\n{workload}: test score of sub-models, by their share of the parameters"
    yield f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    smallest = rungs[0][-1]
    for name, runs in found.items():
        gains = [run[smallest] - other[smallest] for run, other in zip(runs, found["no order"], strict=False)]
        cells: list[Any] = [spread([run[share] for run in runs]) for share in rungs[0]]
        gain = f"{statistics.fmean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})"
        yield f"| {' | '.join([name, *cells, gain, str(len(runs))])} |"


if __name__ == "__main__":
    command(__doc__, run, table)
