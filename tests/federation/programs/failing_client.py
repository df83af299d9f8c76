"""``raffm-mpi`` in which client 3's training fails: run by test_failures.py."""

from raffm_mpi.cli import main
from raffm_mpi.federation import client_group

train = client_group.train


def fail(*arguments, **options):
    if options["client"] == 3:
        raise RuntimeError("the optimiser is broken")
    return train(*arguments, **options)


client_group.train = fail
main()
