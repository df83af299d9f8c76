"""Run by test_ranks.py: a model of more than 2^31 bytes, and sums of more than that, in bounded counts."""

import numpy as np
import torch

from raffm_mpi.elastic.labels import Layout, parse
from raffm_mpi.elastic.packing import allocate
from raffm_mpi.exchange.mpi import MPIRanks

ranks = MPIRanks()
longest = 0
world = ranks._world


class Counted:
    """The communicator, noting the largest count of any call."""

    def __getattr__(self, name):
        call = getattr(world, name)

        def counting(*arguments, **options):
            global longest
            for argument in arguments:
                if isinstance(argument, list):
                    longest = max(longest, argument[0].nbytes)
            return call(*arguments, **options)

        return counting


ranks._world = Counted()
rows = 2**29 // 4096 + 8
layout = Layout({"a": parse(". ."), "b": parse(". .")}, {"a": (rows, 4096), "b": (3, 5)}, {})

model = allocate(layout)
assert model.buffer.nbytes > 2**31
if ranks.rank == 0:
    model.tensors["a"][:] = torch.arange(rows, dtype=torch.float32)[:, None]
    model.tensors["b"].fill_(7)
ranks.broadcast(model.buffer.numpy())
assert torch.equal(model.tensors["a"][:, 0], torch.arange(rows, dtype=torch.float32))
assert torch.equal(model.tensors["a"][:, -1], torch.arange(rows, dtype=torch.float32))
assert (model.tensors["b"] == 7).all()
del model

layout = Layout({"a": parse(". .")}, {"a": (rows // 2 + 8, 4096)}, {})
sums = allocate(layout, torch.int64)
assert sums.buffer.nbytes > 2**31
sums.tensors["a"][:] = torch.arange(rows // 2 + 8)[:, None] + ranks.rank
ranks.reduce(sums.buffer.numpy())
if ranks.rank == 0:
    expected = ranks.size * torch.arange(rows // 2 + 8) + sum(range(ranks.size))
    assert torch.equal(sums.tensors["a"][:, 0], expected)
    assert torch.equal(sums.tensors["a"][:, -1], expected)
assert 0 < longest <= 2**30, longest
assert ranks.bytes_moved > 2**32
print("done", np.round(longest / 2**20), "MiB at most", flush=True)
