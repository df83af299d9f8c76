"""``raffm-mpi`` in which client 3 returns weights that are not finite: run by test_round.py."""

import torch

from raffm_mpi.cli import main
from raffm_mpi.federation import client_group

train = client_group.train


def poison(model, *arguments, **options):
    result = train(model, *arguments, **options)
    if options["client"] == 3:
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = float("nan")
    return result


client_group.train = poison
main()
