"""Seconds a round under ``mpirun -n 3`` against two bare torch processes doing the same training.

ViT (hidden 192, 6 layers, 3 heads, FFN 768, 32x32 images, patch 4) on CIFAR-10: 100 clients x 500 images, 10 a round,
batch 64, AdamW, one local epoch, full model, one thread a process.

    python benchmarks/federated_round.py ../shared/data/cifar10 [repeats]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing
import yaml
from models import MEDIUM
from ranks import run as run_on

ROUNDS, CLIENTS_EACH, NUM_PROCESSES = 2, 5, 2


def settings(data: str, output: Path) -> dict:
    return {
        "output": str(output),
        "model": MEDIUM,
        "data": {"path": data, "validation_fraction": 0.0, "partition": {"kind": "iid"}},
        "federation": {"num_clients": 100, "participation": 0.1, "num_rounds": ROUNDS},
        "method": {"name": "fedavg"},
        "training": {"optimizer": "adamw", "learning_rate": 5e-4, "batch_size": 64, "local_epochs": 1},
        "evaluation": {"every": ROUNDS},
    }


def federated(config: Path, output: Path) -> list[float]:
    """Seconds of each round."""
    run_on(3, "-m", "raffm_mpi", "run", config, "--overwrite")
    from raffm_mpi.log import open_run

    return list(open_run(output).rounds["round_s"])


def bare(number: int, config: Path, barrier: multiprocessing.Barrier, seconds: multiprocessing.Queue) -> None:
    """One process: train the full model on five clients' images a round, and nothing else."""
    torch.set_num_threads(1)
    from transformers import AutoConfig, AutoModelForImageClassification

    from raffm_mpi.config import load_settings
    from raffm_mpi.data import ImageInput, open_data, prepare
    from raffm_mpi.tasks import inspect, task_of

    loaded = load_settings(config)
    info = inspect(loaded.data)
    task = task_of(info.task)
    inputs = ImageInput(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
    train = open_data(prepare(info, task, loaded.data, inputs, loaded.seed), task).train
    model = AutoModelForImageClassification.from_config(AutoConfig.for_model("vit", num_labels=10, **MEDIUM["config"]))
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    for _ in range(ROUNDS):
        barrier.wait()
        start = time.perf_counter()
        for client in range(CLIENTS_EACH):
            model.load_state_dict(initial)
            optimizer = torch.optim.AdamW(model.parameters(), 5e-4, weight_decay=0.0, fused=True)
            first = 500 * (CLIENTS_EACH * number + client)
            images = train.batch(torch.arange(first, first + 500).numpy())
            for rows in torch.randperm(500).split(64):
                loss = model(**{name: tensor[rows] for name, tensor in images.items()}).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        seconds.put(time.perf_counter() - start)
        barrier.wait()


def bare_rounds(config: Path) -> list[float]:
    context = multiprocessing.get_context("spawn")
    barrier, seconds = context.Barrier(NUM_PROCESSES), context.Queue()
    processes = [context.Process(target=bare, args=(n, config, barrier, seconds)) for n in range(NUM_PROCESSES)]
    for process in processes:
        process.start()
    rounds = [max(seconds.get() for _ in range(NUM_PROCESSES)) for _ in range(ROUNDS)]
    for process in processes:
        process.join()
    return rounds


def main() -> None:
    data, repeats = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        config, output = Path(folder) / "bench.yaml", Path(folder) / "run"
        config.write_text(yaml.safe_dump(settings(data, output)))
        ratios = []
        for repeat in range(repeats):
            alone = bare_rounds(config)
            together = federated(config, output)
            ratios += [ours / theirs for ours, theirs in zip(together, alone, strict=True)]
            print(f"repeat {repeat}: bare {alone} s, federated {together} s a round", flush=True)
        print(f"federated / bare: median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
