"""The cost of safety: seconds a round with checkpoints and ULFM on against both off, on federated_round.py's workload.

python benchmarks/safety.py ../shared/data/cifar10 [repeats]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import yaml
from federated_round import settings
from ranks import run as run_on

from raffm_mpi.log import open_run

ROUNDS = 3
ON, OFF = (["--with-ft", "ulfm"], 1), ([], None)  # options of mpirun, checkpoint_every


def round_seconds(config: Path, options: list[str], checkpoint_every: int | None) -> list[float]:
    """Seconds of each round but the first, in which memory is touched for the first time."""
    every = "null" if checkpoint_every is None else checkpoint_every
    words = ["-m", "raffm_mpi", "run", config, "--overwrite", f"reliability.checkpoint_every={every}"]
    run_on(3, *words, options=options)
    with open_run(config.parent / "run") as run:
        return list(run.rounds["round_s"][1:])


def main() -> None:
    data, repeats = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "bench.yaml"
        values = settings(data, Path(folder) / "run")
        values["federation"] |= {"num_rounds": ROUNDS, "participation": 0.04}
        values["evaluation"] |= {"every": ROUNDS + 1, "submodels": "never", "personal": False}
        config.write_text(yaml.safe_dump(values))
        ratios = []
        for repeat in range(repeats):
            order = (OFF, ON) if repeat % 2 else (ON, OFF)
            seconds = {id(case): round_seconds(config, *case) for case in order}
            on, off = seconds[id(ON)], seconds[id(OFF)]
            ratios.append(sum(on) / sum(off))
            print(f"repeat {repeat}: on {on} s, off {off} s a round, ratio {ratios[-1]:.3f}", flush=True)
        print(f"on / off: median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
