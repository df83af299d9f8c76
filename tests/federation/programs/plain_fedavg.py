"""FedAvg of peft models in one process, as a reader of the paper would write it: ``plain_fedavg.py CONFIG OUTPUT``.

Whole models, no slices, envelopes or ranks; the sums are int64 on the grid that docs and code promise. Prints the final
model's SHA-256.
"""

import copy
import sys

import torch

from raffm_mpi.config import load_settings
from raffm_mpi.exchange.lone import LoneRank
from raffm_mpi.federation.plan import cohort
from raffm_mpi.federation.run import set_up
from raffm_mpi.learning.model import sha256
from raffm_mpi.learning.training import train

settings = load_settings(sys.argv[1], [f"output={sys.argv[2]}"])
experiment = set_up(settings, LoneRank())
server = experiment.model
for number in range(settings.federation.num_rounds):
    clients = [int(client) for client in cohort(settings, experiment.partition.num_clients, number)]
    sizes = [len(experiment.partition.client(client)) for client in clients]
    unit = 2.0 ** (62 - 6 - sum(sizes).bit_length())
    sums = {name: 0 for name, p in server.named_parameters() if p.requires_grad}
    for client, size in zip(clients, sizes, strict=True):
        local = copy.deepcopy(server)
        train(
            local,
            experiment.examples.train,
            experiment.partition.client(client),
            settings.training,
            experiment.processor,
            seed=settings.seed,
            round_number=number,
            client=client,
        )
        trained = dict(local.named_parameters())
        for name, parameter in server.named_parameters():
            if parameter.requires_grad:
                update = (trained[name] - parameter).detach().double()
                sums[name] = sums[name] + (update * (size * unit)).round().long()
            else:
                assert torch.equal(trained[name], parameter)
    with torch.no_grad():
        for name, parameter in server.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.double() + sums[name].double() / (sum(sizes) * unit))
print("sha256", sha256({name: parameter for name, parameter in server.named_parameters()}))
