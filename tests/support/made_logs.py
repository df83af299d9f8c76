"""Logs made by hand, of which every figure and table can be told beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from raffm_mpi.log import GLOBAL_MODEL, RunLog
from raffm_mpi.log.schema import ROUNDS

RANKS = [(0, "n1", "cpu", "server"), (1, "n1", "cpu", "group"), (2, "n1", "cpu", "group")]
NUM_CLIENTS = 12  # of which the first eight take part in every round
WATTS = 5.0
SIZES = np.array([86_000_000, 30_000_000, 55_000_000])  # the full model comes first
_ALL = ("validation", "test")
KINDS: dict[str, dict[str, Any]] = {
    "full": {"num_rounds": 20, "splits": _ALL, "submodels": True, "status": "finished"},
    "devices": {"num_rounds": 20, "splits": _ALL, "submodels": True, "status": "finished"},
    "long": {"num_rounds": 130, "splits": _ALL, "submodels": True, "status": "finished"},
    "one_round": {"num_rounds": 1, "splits": ("validation",), "submodels": True, "status": "interrupted"},
    "no_evaluation": {"num_rounds": 5, "splits": (), "submodels": False, "status": "failed"},
    "no_rounds": {"num_rounds": 0, "splits": (), "submodels": False, "status": "running"},
}


def config(name: str | None = "google/vit-base-patch16-224", **changes: Any) -> dict[str, Any]:
    """Settings as a log has them; ``changes`` replace whole groups."""
    return {
        "seed": 0,
        "output": "runs/made",
        "model": {"name": name, "family": None},
        "data": {"path": "cifar10", "partition": {"kind": "dirichlet", "alpha": 0.5}},
        "federation": {"num_clients": NUM_CLIENTS, "participation": 0.1, "num_rounds": 20},
        "method": {"name": "raffm"},
        **changes,
    }


def global_accuracy(round_, split: str):
    """The score of the full model after a round."""
    return {"validation": 0.9, "test": 0.85}[split] - 0.8 / (1 + round_)


def write_run(
    folder: Path,
    kind: str,
    name: str = "google/vit-base-patch16-224",
    metric: str = "accuracy",
    gain: float = 0.0,
    **changes: Any,
) -> Path:
    """The log of a run; ``gain`` is added to every score, ``changes`` are of its settings."""
    num_rounds, splits, submodels, status = KINDS[kind].values()
    with_devices = kind == "devices"
    log = create(folder, metric, ["cat", "dog"] if with_devices else [], config(name, **changes))
    if with_devices:
        write_population(log)
    for round_ in range(num_rounds):
        write_round(log, round_, with_devices)
        for split in splits:
            log.append("evaluation", **evaluation(round_, GLOBAL_MODEL, split, global_accuracy(round_, split) + gain))
            if submodels and round_ == num_rounds - 1:
                log.append("evaluation", **evaluation(round_, np.arange(1, 3), split, np.array([0.5, 0.6]) + gain))
    if with_devices:
        write_client_scores(log, num_rounds - 1)
    log.commit()
    if status != "running":
        log.finish(status, "ab" * 32 if status == "finished" else "")
    return folder


def create(folder: Path, metric: str, label_names: list[str], settings: dict[str, Any]) -> RunLog:
    """The log of a run that begins."""
    given = {"versions": {"torch": "2"}, "commit": "0123abc", "hosts": ["n1"], "num_ranks": 3}
    given |= {"command": "raffm-mpi run", "task": "image_classification", "metrics": [metric, "f1_macro"]}
    text = yaml.safe_dump(settings, sort_keys=False)
    return RunLog.create(folder, config=text, attributes=given, dimensions=[], label_names=label_names, ranks=RANKS)


def write_population(log: RunLog) -> None:
    """Twelve clients of one kind of device, of more and more dogs."""
    dogs = np.arange(NUM_CLIENTS)
    counts = np.stack([NUM_CLIENTS - dogs, dogs], axis=1)
    log.append("partition", client=dogs, num_examples=NUM_CLIENTS, device=0, label_counts=counts)
    links = {"downlink_bytes_per_s": 1.0, "uplink_bytes_per_s": 1.0}
    power = {"compute_w": WATTS, "transfer_w": 1.0, "idle_w": 0.0}
    log.append(
        "devices", device=0, name="pi", num_clients=NUM_CLIENTS, memory_bytes=1.0, flops_per_s=1.0, **links, **power
    )


def write_client_scores(log: RunLog, round_: int) -> None:
    """Every client's score with each of three models, on its share of the test split."""
    clients = np.arange(NUM_CLIENTS)
    for submodel in range(3):
        scores = (clients + submodel) / 20
        rest = {"num_examples": 9, "loss": 1.0, "score": scores}
        log.append("client_scores", round=round_, submodel=submodel, client=clients, **rest)


def write_round(log: RunLog, round_: int, with_devices: bool = False) -> None:
    """Eight clients, of which one is gone where there are devices; two groups, the second waits for the first."""
    if round_ == 0:
        unseen = {"forward_flops": 1.0, "bytes": 4 * SIZES, "memory_bytes": 0, "sizes": np.zeros((3, 0), int)}
        log.append("submodels", submodel=np.arange(3), round=0, parameters=SIZES, **unseen)
    chosen = np.arange(round_, round_ + 8) % 3
    virtual = {f"virtual_{phase}_s": np.nan for phase in ("download", "train", "upload", "wait")}
    own: dict[str, Any] = {**virtual, "device": -1, "energy_j": np.nan, "status": "trained"}
    if with_devices:
        status = np.where(np.arange(8) == 3, "gone", "trained")
        own = {**virtual, "device": 0, "energy_j": 50.0 / 8, "status": status}
        own |= {f"virtual_{phase}_s": 0.0 for phase in ("download", "upload", "wait")} | {"virtual_train_s": 1.25}
        message = "client <b>3</b> is gone"
        log.append("events", round=round_, client=3, rank=-1, kind="dropped", message=message)
    work = {"num_examples": 9, "num_steps": 1, "micro_batches": 1, "train_flops": 1e6}
    real = {"train_s": 1.0, "overhead_s": 0.1, "bytes_down": 200, "bytes_up": 175}
    losses = {"first_loss": 2.0, "last_loss": 1.0, "mean_loss": 1.5}
    clients = {"client": np.arange(8), "group": 0, "submodel": chosen, "parameters": SIZES[chosen]}
    log.append("clients", round=round_, **clients, **work, **real, **losses, **own)
    times = {"predicted_s": [1.9, 1.6], "actual_s": [2.0, 1.5], "idle_s": [0.0, 0.5]}
    log.append("groups", round=round_, group=[0, 1], rank=[1, 2], num_clients=[4, 4], **times)
    row: dict[str, Any] = {column.name: 1 for column in ROUNDS.columns}
    row |= {"round": round_, "train_loss": 2 / (1 + round_), "bytes_down": 1600, "bytes_up": 1400, "round_s": 3.0}
    row |= {"virtual_start_s": np.nan, "virtual_round_s": np.nan, "energy_j": np.nan}
    if with_devices:
        row |= {"virtual_start_s": 10.0 * round_, "virtual_round_s": 10.0, "energy_j": 50.0}
    log.append("rounds", **row)
    log.commit()


def evaluation(round_: int, submodel, split: str, score) -> dict[str, Any]:
    """A row of the evaluation table."""
    row = {"round": round_, "submodel": submodel, "split": split, "score": score}
    return {**row, "loss": 2.5 / (1 + round_), "num_examples": 100, "seconds": 1.0}
