"""The paper's five populations of devices: the tables of docs/devices.md.

python benchmarks/devices.py DATA OUTPUT [rounds]     # DATA: a CIFAR-10 folder

Runs configs/devices.yaml with each population, three rounds if not told otherwise; runs that OUTPUT holds are not run
again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ranks import run as run_on

from raffm_mpi.analysis.power import energy_by_device, peak_w
from raffm_mpi.devices import read_profiles
from raffm_mpi.log import Run, open_run

POPULATIONS = ("xsmall", "small", "medium", "large", "xlarge")
CONFIG = Path(__file__).parents[1] / "configs" / "devices.yaml"
PUBLISHED_KW = {"xsmall": 0.62, "small": 3.20, "medium": 7.34, "large": 16.28, "xlarge": 25.71}
NUM_CLIENTS = 100  # of the paper's populations


def population_peak_kw(name: str) -> float:
    """The power of the paper's 100 clients when all of them train, from the profiles."""
    known = read_profiles()
    shares = known.populations[name]
    return sum(NUM_CLIENTS * share * known.profiles[device].compute_w for device, share in shares.items()) / 1000


def row(name: str, run: Run) -> str:
    rounds, clients = run.rounds, run.clients
    status = clients["status"].value_counts()
    full = run.submodels["parameters"].iloc[0]
    share = clients.loc[clients["status"] == "trained", "parameters"].mean() / full
    cells = (
        name,
        f"{rounds['virtual_round_s'].mean():.2f}",
        f"{(rounds['bytes_down'] + rounds['bytes_up']).mean() / 1e6:.1f}",
        f"{rounds['energy_j'].mean():,.0f}",
        f"{peak_w(run):,.0f}",
        f"{share:.0%}",
        f"{status.get('unable', 0)} of {len(clients)}",
        f"{population_peak_kw(name):.2f}",
        f"{PUBLISHED_KW[name]:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    data, output = sys.argv[1], Path(sys.argv[2])
    num_rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    for name in POPULATIONS:
        run_on(
            3,
            "-m",
            "raffm_mpi",
            "run",
            CONFIG,
            f"devices.population={name}",
            f"data.path={data}",
            f"output={output / name}",
            f"federation.num_rounds={num_rounds}",
            "evaluation.every=100",
            "--resume",
            quiet=False,
        )
    columns = ("population", "s a round", "MB", "J", "peak W", "mean size", "sat out", "all 100 train, kW", "paper")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in POPULATIONS:
        with open_run(output / name) as run:
            print(row(name, run))
    for name in POPULATIONS:
        with open_run(output / name) as run:
            table = energy_by_device(run)
            full = run.submodels["parameters"].iloc[0]
            for device, values in table.iterrows():
                print(
                    f"{name}: {device}: asked {values['asked']:.0f}, trained {values['trained']:.0f}, mean size "
                    f"{values['parameters'] / full:.0%}, {values['energy_j'] / values['asked']:.2f} J a client"
                )
            assert np.isclose(run.clients["energy_j"].sum(), run.rounds["energy_j"].sum())


if __name__ == "__main__":
    main()
