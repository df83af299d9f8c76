"""How far a run scales: predicted against measured rounds, oversubscribed ranks, and a million clients.

python benchmarks/scaling.py predict ../shared/data/cifar10 [repeats [demo vit_cifar10]]
python benchmarks/scaling.py ranks [8 16 32 64]
python benchmarks/scaling.py clients
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import models
import numpy as np
import yaml
from ranks import ENVIRONMENT, mpirun
from ranks import run as run_on

from raffm_mpi.config import DirichletPartition, IIDPartition, Settings, load_settings
from raffm_mpi.errors import UserMistake
from raffm_mpi.forecast.calibration import Calibration
from raffm_mpi.forecast.needs import Cluster, derive_round, makespan_s, predict, volume
from raffm_mpi.forecast.sketch import sketch

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
LITTLE_ELSE = ["evaluation.every=1000", "evaluation.submodels=never", "evaluation.personal=false"]
TINY = {
    "model": models.TINY,
    "federation": {"num_clients": 256, "participation": 0.25, "num_rounds": 6},
    "method": {"name": "raffm", "space": {"ffn": [0.25, 0.5, 1.0], "heads": [1, 2, 3]}},
    "training": {"batch_size": 8},
    "reliability": {"checkpoint_every": None},
}


def measured_rounds(ranks: int, config: Path, output: Path, overrides: list[str], num_rounds: int) -> list[float]:
    """Seconds of each of the first ``num_rounds`` rounds but round 0; the run is stopped when it has them."""
    from raffm_mpi.log import open_run

    words = ["-m", "raffm_mpi", "run", config, f"output={output}", *overrides]
    process = subprocess.Popen(
        mpirun(ranks, *words), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        while process.poll() is None:
            time.sleep(1)
            if (output / "run.h5").exists():
                try:
                    with open_run(output) as run:
                        seconds = list(run.rounds["round_s"])
                except UserMistake:
                    continue  # the log cannot be read yet
                if len(seconds) >= num_rounds:
                    return seconds[1:num_rounds]
        raise SystemExit(process.stderr.read().decode())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def predicted_against_measured(data: str, repeats: int, names: list[str]) -> None:
    cases = {
        "demo": (CONFIGS / "demo.yaml", ["federation.num_rounds=16"], 16),
        "vit_cifar10": (
            CONFIGS / "vit_cifar10.yaml",
            [f"data.path={data}", "federation.participation=0.04", "federation.num_rounds=3"],
            3,
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in names or cases:
            config, overrides, num_rounds = cases[name]
            for groups in (1, 2):
                ratios = []
                for repeat in range(repeats):
                    given = [*overrides, *LITTLE_ELSE]
                    file = Path(folder) / "calibration.yaml"
                    words = ["-m", "raffm_mpi", "calibrate", config, f"output={folder}", *given, "--output", file]
                    run_on(1 + groups, *words)
                    settings = load_settings(config, [f"output={folder}/run", *given])
                    calibration = Calibration.read(file)
                    phases = predict(sketch(settings), Cluster(1, groups), calibration).duration.phases
                    expected = statistics.fmean(phase.round_s for phase in phases[1:num_rounds])
                    output = Path(folder) / f"{name}-{groups}-{repeat}"
                    rounds = measured_rounds(1 + groups, config, output, given, num_rounds)
                    ratios.append(expected / statistics.fmean(rounds))
                    print(
                        f"{name}, {groups} groups, repeat {repeat}: predicted {expected:.3f} s, measured "
                        f"{statistics.fmean(rounds):.3f} s ({min(rounds):.3f} to {max(rounds):.3f}), "
                        f"ratio {ratios[-1]:.2f}",
                        flush=True,
                    )
                print(
                    f"{name}, {groups} groups: predicted / measured median {statistics.median(ratios):.2f}, "
                    f"range {min(ratios):.2f} to {max(ratios):.2f}",
                    flush=True,
                )


def counted(folder: str, config: str) -> None:
    """On every rank: run a federation, and write how many collectives and bytes each round took."""
    from raffm_mpi.cli.displays import make_display
    from raffm_mpi.exchange import mpi as module
    from raffm_mpi.federation.client_group import ClientGroup
    from raffm_mpi.federation.run import run
    from raffm_mpi.federation.server import Server

    messages, moved = [0], []
    chunks = module.chunks

    def counting(buffer: np.ndarray) -> list[np.ndarray]:
        found = chunks(buffer)
        messages[0] += len(found)
        return found

    module.chunks = counting
    ranks = module.MPIRanks()

    def counted_step(owner: type, name: str, is_round) -> None:
        step = getattr(owner, name)

        def wrapped(self, *arguments):
            before = messages[0], self.ranks.bytes_moved
            ranks.was_round = False
            step(self, *arguments)
            if is_round():
                moved.append([messages[0] - before[0], self.ranks.bytes_moved - before[1]])

        setattr(owner, name, wrapped)

    def note_round(self, plan) -> None:
        ranks.was_round = True
        serve_round(self, plan)

    serve_round, ClientGroup._serve_round = ClientGroup._serve_round, note_round
    counted_step(Server, "_run_round", lambda: True)
    counted_step(ClientGroup, "_serve_step", lambda: ranks.was_round)
    settings = load_settings(config)
    os.environ.update(OMP_NUM_THREADS="1")
    run(settings, ranks, make_display, True)
    (Path(folder) / f"{ranks.rank}.json").write_text(json.dumps(moved))
    ranks.leave(0)


def oversubscribed(counts: list[int]) -> None:
    from raffm_mpi.log import open_run

    for ranks in counts:
        with tempfile.TemporaryDirectory() as folder:
            config, output = Path(folder) / "tiny.yaml", Path(folder) / "run"
            evaluation = {"every": 1000, "submodels": "never", "personal": False}
            config.write_text(yaml.safe_dump({**TINY, "output": str(output), "evaluation": evaluation}))
            start = time.perf_counter()
            run_on(ranks, __file__, "counted", folder, config)
            whole_s = time.perf_counter() - start
            sketched = sketch(load_settings(config))
            designed = [volume(derive_round(sketched, number)).exchange_bytes for number in range(6)]
            per_rank = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]
            same = all([count[1] for count in rank] == designed for rank in per_rank)
            messages = sorted({count[0] for rank in per_rank for count in rank})
            with open_run(output) as run:
                rounds = run.rounds[1:]
                logged = list(run.rounds["exchange_bytes"]) == designed
            outside = rounds["round_s"] - rounds["train_s"]
            print(
                f"{ranks} ranks: a round {rounds['round_s'].median():.3f} s ({rounds['round_s'].min():.3f} to "
                f"{rounds['round_s'].max():.3f}), the slowest group trains {rounds['train_s'].median():.3f} s, "
                f"outside it {outside.median():.3f} s; {messages} collectives and {designed[-1]:,} bytes a rank and "
                f"round; as designed: on every rank {same}, in the log {logged}; {whole_s:.0f} s in all",
                flush=True,
            )


def million(what: str) -> None:
    """One of the cases of :func:`clients`, in a process of its own."""
    from raffm_mpi import data
    from raffm_mpi.federation.plan import cohort

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    labels = np.random.default_rng(0).integers(0, 10, 2_000_000)
    settings = Settings.model_validate(
        {
            **TINY,
            "output": "runs/none",
            "data": {"partition": {"kind": "k_shot", "shots": 1, "replacement": True}},
            "federation": {"num_clients": 1_000_000, "participation": 0.01, "num_rounds": 10},
        }
    )
    calibration = Calibration.model_validate(
        dict.fromkeys(
            ("training_flops_per_s", "evaluation_flops_per_s", "update_bytes_per_s", "pack_bytes_per_s"), 1e10
        )
        | dict.fromkeys(("commit_bytes_per_s", "checkpoint_bytes_per_s"), 1e9)
        | dict.fromkeys(("base_s", "derive_client_s", "commit_client_s"), 1e-4)
        | dict.fromkeys(("cores", "num_groups", "threads", "parameters", "process_bytes"), 1)
        | {"device": "cpu", "device_name": "", "precision": "fp32", "exchange": None, "versions": {}}
    )
    sketched = sketch(settings) if what in ("a round", "makespan") else None
    derived = derive_round(sketched, 1) if what == "makespan" else None
    start = time.perf_counter()
    if what.startswith("partition"):
        data.partition(IIDPartition() if "iid" in what else DirichletPartition(), labels, 1_000_000, 0)
    elif what == "sampling":
        assert len(cohort(settings, 1_000_000, 0)) == 10_000
    elif what == "a round":
        assert len(derive_round(sketched, 0).flops) == 10_000
    elif what == "makespan":
        assert makespan_s(volume(derived), 1000, calibration) > 0
    else:
        predict(sketch(settings), Cluster(250, 4), calibration)
    seconds = time.perf_counter() - start
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{what}: {seconds:.3f} s, {used:.0f} MiB more than the libraries at the peak", flush=True)


def clients() -> None:
    cases = ("partition iid", "partition dirichlet", "partition shards", "sampling", "a round", "makespan", "forecast")
    for what in cases:
        subprocess.run(
            [sys.executable, __file__, "million", what], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True
        )


def main() -> None:
    what, *words = sys.argv[1:] or [""]
    if what == "predict":
        predicted_against_measured(words[0], int(words[1]) if len(words) > 1 else 3, words[2:])
    elif what == "ranks":
        oversubscribed([int(word) for word in words] or [8, 16, 32, 64])
    elif what == "clients":
        clients()
    elif what == "counted":
        counted(*words)
    elif what == "million":
        million(*words)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
