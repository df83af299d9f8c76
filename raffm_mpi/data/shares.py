"""Which client each example of a test split belongs to: those that look like its own training examples."""

from __future__ import annotations

import numpy as np

from raffm_mpi.data.partitions import Partition
from raffm_mpi.seeds import generator


def share(partition: Partition, train_classes: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
    """Deal examples to clients so that each class is spread over them as it is in training.

    The classes (int64) are of the training and of the other split's examples. Returns the client of each example,
    int64 [len(classes)]; -1 where no client holds its class.
    """
    rng = generator(seed, "shares")
    clients = np.repeat(np.arange(partition.num_clients), partition.sizes)
    held = train_classes[partition.indices]
    owners = np.full(len(classes), -1)
    for label in np.unique(classes):
        holders = clients[held == label]  # a client as often as it holds the class
        examples = rng.permutation(np.flatnonzero(classes == label))
        if len(holders):
            owners[examples] = holders[((np.arange(len(examples)) + 0.5) * len(holders) / len(examples)).astype(int)]
    return owners
