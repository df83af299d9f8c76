"""``raffm-mpi`` with bad clients: 1 never fits into memory, 2 only in half batches, 3 and 4 return nonsense."""

import torch

from raffm_mpi.cli import main
from raffm_mpi.federation import client_group

train = client_group.train


def train_badly(model, *arguments, **options):
    client = options["client"]
    if client == 1 or (client == 2 and options["micro_batches"] == 1):
        torch.empty(1 << 60, dtype=torch.uint8)  # torch's own refusal
    if client == 3:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
    result = train(model, *arguments, **options)
    if client == 4:
        with torch.no_grad():
            next(model.parameters()).fill_(1e6)
    return result


client_group.train = train_badly
main()
