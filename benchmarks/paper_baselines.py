"""The paper's table of baselines: the full model, PruneFL, PriSM and RaFFM, on the same clients, devices and seeds.

    python benchmarks/paper_baselines.py cifar10 ../shared/data/cifar10 OUTPUT [seeds] [--full]
    python benchmarks/paper_baselines.py sst2 ../shared/data/sst2 OUTPUT [seeds] [--full]
    python benchmarks/paper_baselines.py table OUTPUT

Seconds, bytes, joules and watts are simulated: of the population "small" (Raspberry Pis and laptops). PriSM and RaFFM
give each client the largest sub-model that its device has ready by a deadline; the full model and PruneFL know one
size, so that a round waits for the slowest device. Runs that OUTPUT holds already are not run again.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads import SPACES, changed, command, finished, full_size, place, reduced, run_missing, spread

from raffm_mpi import data
from raffm_mpi.analysis.comparison import Result
from raffm_mpi.analysis.power import peak_w
from raffm_mpi.analysis.quantities import costs
from raffm_mpi.config import Settings
from raffm_mpi.devices import read_profiles
from raffm_mpi.elastic.labels import FULL
from raffm_mpi.federation.experiment import look
from raffm_mpi.forecast.sketch import sketch
from raffm_mpi.learning.training import examples_seen
from raffm_mpi.log import GLOBAL_MODEL, open_run
from raffm_mpi.tasks import task_of

WHOLE = "Full model (FedAvg)"
SLOWEST = "raspberry_pi_4"  # of the population
# The deadline, as a share of what the slowest device takes for the full model: such that RaFFM's smallest sub-model,
# which keeps all of MiniLM's embeddings, is ready in time there.
DEADLINE = {"cifar10": 0.5, "sst2": 0.6}
NUM_ROUNDS = {"cifar10": 30, "sst2": 4}
EVERY = {"cifar10": 3, "sst2": 1}
TARGET = {"cifar10": 0.23, "sst2": 0.7}  # of the validation split


def rows(workload: str, deadline_s: float) -> dict[str, dict[str, Any]]:
    waits = {"population": "small"}
    in_time = {**waits, "deadline_s": deadline_s}
    return {
        WHOLE: {"method": {"name": "fedavg"}, "devices": waits},
        "PruneFL, half of the entries": {"method": {"name": "prunefl", "density": 0.5}, "devices": waits},
        "PriSM, by device": {"method": {"name": "prism", "budget": "device"}, "devices": in_time},
        "RaFFM, by device": {
            "method": {"name": "raffm", "budget": "device", "space": SPACES[workload]},
            "devices": in_time,
        },
    }


def run(workload: str, folder: str, output: Path, seeds: int, at_full_size: bool) -> None:
    if at_full_size:
        base = full_size(workload, folder)
    else:
        smaller = {
            "federation": {"num_rounds": NUM_ROUNDS[workload]},
            "evaluation": {"every": EVERY[workload]},
            "reliability": {"checkpoint_every": None},
        }
        base = changed(reduced(workload, folder), smaller)
    deadline_s = deadline_of(base, DEADLINE[workload])
    run_missing(
        {
            place(output, workload, name, seed): changed(base, row, {"seed": seed})
            for seed in range(seeds)
            for name, row in rows(workload, deadline_s).items()
        }
    )


def deadline_of(settings: dict[str, Any], share: float) -> float:
    """A share of what the slowest device takes for the full model and a mean client's examples, in virtual seconds."""
    whole = Settings.model_validate({**settings, "output": "none", "method": {"name": "fedavg"}})
    looked = look(whole)
    data.prepare(
        looked.info, task_of(looked.info.task), whole.data, looked.inputs, whole.seed
    )  # so that the length of its texts is known
    sketched = sketch(whole)
    outline, device = sketched.outline, read_profiles().profiles[SLOWEST]
    price = outline.prices(FULL)
    num_examples = sketched.num_rows["train"] // outline.partition.num_clients
    transfers_s = price.bytes / device.downlink_bytes_per_s + price.bytes / device.uplink_bytes_per_s
    train_s = price.training_flops * examples_seen(outline.settings.training, num_examples) / device.flops_per_s
    return float(f"{(transfers_s + train_s) * share:.2g}")


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    full: float  # test score
    smallest: float  # that of the smallest sub-model that is cut out
    round_s: float
    megabytes: float
    joules_a_round: float
    peak_w: float

    @classmethod
    def of(cls, folder: Path) -> Outcome:
        with open_run(folder) as log:
            test = log.evaluation[log.evaluation["split"] == "test"].set_index("submodel")["score"]
            size = log.submodels.set_index("submodel")["parameters"]
            spent = costs(log).iloc[-1]
            return cls(
                full=float(test[GLOBAL_MODEL]),
                smallest=float(test[size[test.index].idxmin()]),
                round_s=float(log.rounds["virtual_round_s"].mean()),
                megabytes=float(spent["bytes"] / 1e6),
                joules_a_round=float(spent["energy_j"] / spent["num_rounds"]),
                peak_w=peak_w(log),
            )


def to_target(folder: Path, target: float) -> float:
    """Megabytes moved until the target was reached."""
    return Result.of(folder).cost_to(target, "bytes") / 1e6


def table(output: Path, workload: str) -> Iterator[str]:
    found = {name: folders for name in rows(workload, 0) if (folders := finished(output, workload, name))}
    if WHOLE not in found:
        return
    target = TARGET[workload]
    columns = (
        "method",
        "full model, test",
        "smallest sub-model, test",
        "s a round",
        "speed-up",
        f"MB to {target:.0%}",
        "saving",
        "MB in all",
        "J a round",
        "peak W",
        "seeds",
    )
    yield f"\n{workload}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
    whole = [Outcome.of(folder) for folder in found[WHOLE]]
    whole_mb = [to_target(folder, target) for folder in found[WHOLE]]
    for name, folders in found.items():
        runs = [Outcome.of(folder) for folder in folders]
        megabytes = [to_target(folder, target) for folder in folders]
        faster = [full.round_s / run.round_s for full, run in zip(whole, runs, strict=False)]
        fewer = [full / run for full, run in zip(whole_mb, megabytes, strict=False) if full / run > 0]
        reached = [value for value in megabytes if value > 0]
        cells = (
            name,
            spread([run.full for run in runs]),
            spread([run.smallest for run in runs]),
            spread([run.round_s for run in runs], ".2f"),
            f"{statistics.fmean(faster):.2f} ({min(faster):.2f} to {max(faster):.2f})",
            f"{spread(reached, '.0f')} ({len(reached)} of {len(runs)})" if reached else "not reached",
            f"{statistics.fmean(fewer):.2f} ({min(fewer):.2f} to {max(fewer):.2f})" if fewer else "",
            spread([run.megabytes for run in runs], ".0f"),
            spread([run.joules_a_round for run in runs], ".0f"),
            spread([run.peak_w for run in runs], ".0f"),
            str(len(runs)),
        )
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    command(__doc__, run, table)
