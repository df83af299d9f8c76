"""Seconds that each of 1,000 tiny clients a round costs beside its training steps (ten images each).

python benchmarks/client_overhead.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml
from models import SMALL
from ranks import run as run_on


def main() -> None:
    for method in ({"name": "fedavg"}, {"name": "raffm"}):
        with tempfile.TemporaryDirectory() as folder:
            config, output = Path(folder) / "bench.yaml", Path(folder) / "run"
            settings = {
                "output": str(output),
                "model": SMALL,
                "data": {"partition": {"kind": "k_shot", "shots": 1, "replacement": True}},
                "federation": {"num_clients": 1000, "participation": 1.0, "num_rounds": 3},
                "method": method,
                "training": {"batch_size": 10},
                "evaluation": {"every": 3},
            }
            config.write_text(yaml.safe_dump(settings))
            run_on(3, "-m", "raffm_mpi", "run", config)
            from raffm_mpi.log import open_run

            run = open_run(output)
            clients, rounds = run.clients, run.rounds
            by_round = clients.groupby("round")["overhead_s"].median() * 1e3
            share = clients["overhead_s"].sum() / (clients["overhead_s"] + clients["train_s"]).sum()
            outside = rounds["round_s"] - rounds["train_s"]
            print(
                f"{method['name']}: {by_round.median():.2f} ms a client beside its step "
                f"({by_round.min():.2f} to {by_round.max():.2f} over rounds), {share:.0%} of a group's time; "
                f"plan, exchange and commit {outside.median():.2f} s a round of {rounds['round_s'].median():.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
