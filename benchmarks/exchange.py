"""One exchange, a float32 broadcast and an exact int64 reduce, against raw MPI Bcast + Reduce of float32.

python benchmarks/exchange.py            # starts itself under mpirun on 2, 3 and 5 ranks, at 22M and 86M parameters
"""

from __future__ import annotations

import statistics
import sys
import time

from ranks import run as run_on

REPEATS = 7


def measure(num_parameters: int) -> None:
    """Run on every rank: both exchanges, turn by turn."""
    import numpy as np
    from mpi4py import MPI

    from raffm_mpi.exchange.mpi import MPIRanks

    ranks, world = MPIRanks(), MPI.COMM_WORLD
    model = np.ones(num_parameters, np.float32)
    received = np.empty_like(model)
    sums = np.ones(num_parameters, np.int64)

    def ours() -> None:
        ranks.broadcast(model)
        ranks.reduce(sums)

    def raw() -> None:
        world.Bcast(model, root=0)
        world.Reduce(model, received, op=MPI.SUM, root=0)

    times: dict[str, list[float]] = {"ours": [], "raw": []}
    for repeat in range(REPEATS + 1):
        for name, exchange in (("ours", ours), ("raw", raw)):
            sums[:], model[:] = 1, 1
            world.Barrier()
            start = time.perf_counter()
            exchange()
            world.Barrier()
            if repeat:
                times[name].append(time.perf_counter() - start)
    if world.rank == 0:
        ratios = [a / b for a, b in zip(times["ours"], times["raw"], strict=True)]
        print(
            f"{num_parameters / 1e6:5.0f}M parameters, {world.size} ranks: "
            f"ours {statistics.median(times['ours']):.3f} s, "
            f"raw {statistics.median(times['raw']):.3f} s, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def main() -> None:
    if len(sys.argv) > 1:
        return measure(int(sys.argv[1]))
    for ranks in (2, 3, 5):
        for num_parameters in (22_000_000, 86_000_000):
            run_on(ranks, __file__, num_parameters, quiet=False)


if __name__ == "__main__":
    main()
