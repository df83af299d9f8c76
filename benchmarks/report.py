"""Seconds and memory of a report: a log of 500 rounds of 1,000 clients, against one of 50 rounds.

python benchmarks/report.py [rounds [clients]]

The logs are made, with the real writer; each report is written in a process of its own, three times.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from raffm_mpi.log import RunLog
from raffm_mpi.log.schema import TABLES

POPULATION = 10_000
NUM_GROUPS = 16
NUM_SUBMODELS = 40
NUM_LABELS = 10
CONFIG = """
seed: 0
model: {name: made, family: null}
data: {path: made, partition: {kind: dirichlet, alpha: 0.5}}
federation: {num_clients: 10000, participation: 0.1, num_rounds: 500}
method: {name: raffm}
"""


def rows(table: str, length: int, rng: np.random.Generator, /, **given: object) -> dict[str, object]:
    """Rows of a table, at random where they are not given."""
    found = dict(given)
    for column in TABLES[table].columns:
        if column.name not in found:
            found[column.name] = (rng.random(length) * 100).astype(column.dtype)
    return found


def write(folder: Path, num_rounds: int, num_clients: int) -> None:
    rng = np.random.default_rng(0)
    ranks = [(rank, "node", "cuda:0", "group" if rank else "server") for rank in range(NUM_GROUPS + 1)]
    attributes = {"versions": {}, "commit": "none", "hosts": ["node"], "num_ranks": len(ranks), "command": "made"}
    attributes |= {"task": "image_classification", "metrics": ["accuracy"]}
    labels = [f"label {number}" for number in range(NUM_LABELS)]
    log = RunLog.create(
        folder, config=CONFIG, attributes=attributes, dimensions=["ffn"], label_names=labels, ranks=ranks
    )
    counts = rng.integers(0, 50, (POPULATION, NUM_LABELS))
    device = rng.integers(0, 5, POPULATION)
    log.append(
        "partition", client=np.arange(POPULATION), num_examples=counts.sum(axis=1), device=device, label_counts=counts
    )
    names = [f"device {number}" for number in range(5)]
    log.append("devices", **rows("devices", 5, rng, device=np.arange(5), name=names, num_clients=POPULATION // 5))
    sizes = np.linspace(86e6, 30e6, NUM_SUBMODELS).astype(int)
    numbers = np.arange(NUM_SUBMODELS)
    held = {"submodel": numbers, "round": 0, "parameters": sizes, "sizes": numbers[:, None]}
    log.append("submodels", **rows("submodels", NUM_SUBMODELS, rng, **held))
    for number in range(num_rounds):
        cohort = rng.choice(POPULATION, num_clients, replace=False)
        chosen = rng.integers(0, NUM_SUBMODELS, num_clients)
        status = rng.choice(["trained", "gone", "late"], num_clients, p=[0.9, 0.05, 0.05])
        own = {"client": cohort, "submodel": chosen, "parameters": sizes[chosen], "status": status}
        own |= {"device": device[cohort], "group": rng.integers(0, NUM_GROUPS, num_clients)}
        log.append("clients", **rows("clients", num_clients, rng, round=np.full(num_clients, number), **own))
        group = {
            "round": np.full(NUM_GROUPS, number),
            "group": np.arange(NUM_GROUPS),
            "rank": np.arange(NUM_GROUPS) + 1,
        }
        log.append("groups", **rows("groups", NUM_GROUPS, rng, **group))
        virtual = {"virtual_start_s": 500.0 * number, "virtual_round_s": 400.0}
        log.append("rounds", **rows("rounds", 1, rng, round=number, **virtual))
        for split in ("validation", "test"):
            log.append("evaluation", **rows("evaluation", 1, rng, round=number, submodel=0, split=split, score=0.5))
        log.commit()
    log.finish("finished", "ab" * 32)


def measure(folder: Path) -> tuple[float, float]:
    """Seconds and peak MB of one report."""
    start = time.perf_counter()
    subprocess.run([sys.executable, __file__, "report", str(folder)], check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    if sys.argv[1:2] == ["report"]:
        from raffm_mpi.analysis.report import write_report

        write_report(sys.argv[2])
        return
    num_rounds, num_clients = (int(word) for word in [*sys.argv[1:], "500", "1000"][:2])
    with tempfile.TemporaryDirectory() as folder:
        for rounds in (max(num_rounds // 10, 1), num_rounds):  # the peak of children is that of the largest so far
            place = Path(folder) / str(rounds)
            write(place, rounds, num_clients)
            found = [measure(place) for _ in range(3)]
            seconds = [value for value, _ in found]
            size = (place / "run.h5").stat().st_size / 1e6
            print(
                f"{rounds} rounds x {num_clients} clients, {size:.0f} MB of log: report in {min(seconds):.1f} to "
                f"{max(seconds):.1f} s, at most {max(memory for _, memory in found):.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
