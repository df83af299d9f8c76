"""Run by test_ranks.py on some ranks: every operation against numpy."""

import sys
import time

import numpy as np

from raffm_mpi.exchange import chunks
from raffm_mpi.exchange.mpi import MPIRanks

chunks.CHUNK_BYTES = int(sys.argv[1])
ranks = MPIRanks()
rank, size = ranks.rank, ranks.size
rng = np.random.default_rng(0)

for dtype in (np.float32, np.int64):
    expected = (rng.standard_normal(5003) * 1000).astype(dtype)
    buffer = expected.copy() if rank == 0 else np.zeros_like(expected)
    ranks.broadcast(buffer)
    assert np.array_equal(buffer, expected)

parts = rng.integers(-(2**40), 2**40, (size, 5003))
buffer = parts[rank].copy()
ranks.reduce(buffer)
assert rank > 0 or np.array_equal(buffer, parts.sum(axis=0))

table = np.zeros(7, [("number", "f8"), ("text", "S5")])
filled = np.array(
    [(-0.0, b"a"), (float("nan"), b"bcd"), (1.5, b""), (np.inf, b"x"), (2, b"y"), (-3, b"z"), (0.1, b"w")]
)
filled = np.array([tuple(row) for row in filled], table.dtype)
for row in range(len(table)):
    if row % size == rank:
        table[row] = filled[row]
ranks.merge(table)
assert rank > 0 or table.tobytes() == filled.tobytes()

ranks.reduce(np.zeros(0, np.int64))  # nothing to move is no error
assert ranks.describe(f"rank {rank}") == [f"rank {number}" for number in range(size)]

cpu_s, wall_s = time.process_time(), time.perf_counter()
if rank == size - 1 and size > 1:
    time.sleep(3)
ranks.meet()
cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
print(f"rank {rank}: {cpu_s / max(wall_s, 1e-9):.4f} of a core for {wall_s:.2f} s", flush=True)
assert size == 1 or cpu_s < 0.05 * wall_s
print("done", flush=True)
