"""What sub-models cost on a run's examples, and whether a client's device can hold and train one in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from raffm_mpi.config import TrainingSettings
from raffm_mpi.data import Partition
from raffm_mpi.devices import Fleet
from raffm_mpi.elastic.cost import Cost, Lengths, cost, peak_training_bytes
from raffm_mpi.elastic.labels import Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.learning.training import examples_seen

T = TypeVar("T")
Sizes = tuple[int, ...]

_MAX_REMEMBERED = 4096  # costs of sub-models; the table is emptied when it is full


class Prices:
    """The cost of a sub-model on an example and the memory of training it, each counted once for each sub-model."""

    def __init__(self, layout: ModelLayout, lengths: Lengths, training: TrainingSettings) -> None:
        self._layout = layout
        self._lengths = lengths
        self._training = training
        self._costs: dict[Sizes, Cost] = {}
        self._bytes: dict[Sizes, int] = {}

    def __call__(self, selection: Selection) -> Cost:
        """The cost of a sub-model on this data set's examples."""
        return self._once(self._costs, selection, lambda: cost(self._layout, selection, **self._lengths))

    def sizes(self, selection: Selection) -> Sizes:
        """Every dimension's size in a sub-model, in the layout's order."""
        return tuple(self._layout.size(dimension, selection) for dimension in self._layout.all_sizes)

    def training_bytes(self, selection: Selection) -> int:
        """Estimated peak memory of training a sub-model, as :func:`peak_training_bytes`."""
        training = self._training

        def estimate() -> int:
            return peak_training_bytes(
                self._layout,
                selection,
                batch_size=training.batch_size,
                **self._lengths,
                optimizer=training.optimizer_state,
            )

        return self._once(self._bytes, selection, estimate)

    def _once(self, known: dict[Sizes, T], selection: Selection, count: Callable[[], T]) -> T:
        sizes = self.sizes(selection)
        if sizes not in known:
            if len(known) >= _MAX_REMEMBERED:
                known.clear()
            known[sizes] = count()
        return known[sizes]


class Limits:
    """Called with a client and a sub-model: whether the client's device can hold it, and train it in time."""

    def __init__(self, fleet: Fleet, prices: Prices, partition: Partition, training: TrainingSettings) -> None:
        self._fleet = fleet
        self._prices = prices
        self._partition = partition
        self._training = training

    def __call__(self, client: int, selection: Selection) -> bool:
        return self.holds(client, selection) and self.seconds(client, selection) <= self._fleet.deadline_s

    def holds(self, client: int, selection: Selection) -> bool:
        """Whether the memory of the client's device suffices for training the sub-model."""
        return self._prices.training_bytes(selection) <= self._fleet.of(client).memory_bytes

    def seconds(self, client: int, selection: Selection) -> float:
        """Virtual seconds to download the sub-model, train it alone, and upload its update."""
        profile, price = self._fleet.of(client), self._prices(selection)
        num_examples = examples_seen(self._training, len(self._partition.client(client)))
        transfers_s = (price.bytes + price.mask_bytes) / profile.downlink_bytes_per_s
        transfers_s += price.bytes / profile.uplink_bytes_per_s
        return transfers_s + price.training_flops * num_examples / profile.flops_per_s
