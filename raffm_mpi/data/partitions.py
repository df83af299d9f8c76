"""Which training examples each simulated client holds: index arrays only, for a million clients and more."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raffm_mpi.config import (
    ByColumnPartition,
    DirichletPartition,
    KShotPartition,
    PartitionSettings,
    ShardsPartition,
)
from raffm_mpi.errors import UserMistake
from raffm_mpi.seeds import generator


@dataclass(frozen=True)
class Partition:
    """Client ``k`` holds ``indices[offsets[k]:offsets[k + 1]]``, ascending (int64 [total] and [num_clients + 1])."""

    indices: np.ndarray
    offsets: np.ndarray

    @property
    def num_clients(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Examples of every client, int64 [num_clients]."""
        return np.diff(self.offsets)

    def client(self, k: int) -> np.ndarray:
        """The examples of client ``k`` as a view, int64 [sizes[k]]."""
        return self.indices[self.offsets[k] : self.offsets[k + 1]]

    def count_labels(self, labels: np.ndarray, num_labels: int) -> np.ndarray:
        """The examples of every client that have each label, int64 [num_clients, num_labels].

        ``labels`` are the class of each example (int64 [N]), or 1 for each label that it has (uint8 [N, num_labels]).
        """
        counts = np.zeros((self.num_clients, num_labels), dtype=np.int64)
        clients, held = np.repeat(np.arange(self.num_clients), self.sizes), labels[self.indices]
        if held.ndim == 1:
            np.add.at(counts, (clients, held), 1)
        else:
            np.add.at(counts, clients, held)
        return counts


def partition(
    settings: PartitionSettings,
    labels: np.ndarray,
    num_clients: int | None,
    seed: int,
    groups: np.ndarray | None = None,
    label_names: Sequence[str] | None = None,
    examples: np.ndarray | None = None,
) -> Partition:
    """Deal the rows of the training split (``labels``: the class of each, int64 [N]) to clients, by ``seed`` alone.

    iid: equal sizes, give or take one. dirichlet: each class is dealt in proportions drawn from Dirichlet(alpha)
    (Yurochkin et al., 2019; Hsu et al., 2019). shards: sorted by label and cut into equal shards, a few for each
    client (McMahan et al., 2017). k_shot: so many examples of every class. by_column: a client for each value of
    ``groups`` (int64 [N]), in order of value. All but k_shot deal every example exactly once.

    ``examples`` (int64 [N], ascending; ``Split.examples``) says of which example a row was made: all rows of one go
    to one client, and the minimum and equal sizes are of examples. Left out, every row is an example of its own.

    Raises UserMistake when the examples do not suffice.
    """
    labels = np.asarray(labels)
    if examples is not None:
        _, firsts, sizes = np.unique(examples, return_index=True, return_counts=True)
        of_firsts = None if groups is None else groups[firsts]
        return _expanded(partition(settings, labels[firsts], num_clients, seed, of_firsts, label_names), sizes)
    if isinstance(settings, ByColumnPartition):
        dealt = _by_column(settings, groups, num_clients)
    elif num_clients is None:
        raise UserMistake(f"federation.num_clients is missing; data.partition.kind {settings.kind} cannot infer it")
    elif isinstance(settings, KShotPartition):
        dealt = _k_shot(settings, labels, num_clients, generator(seed, "partition"), label_names)
    else:
        check_enough(settings, len(labels), num_clients)
        dealt = _by_owner(_owners(settings, labels, num_clients, generator(seed, "partition")), num_clients)
    _check_minimum(settings, dealt.sizes)
    return dealt


def check_enough(settings: PartitionSettings, num_examples: int, num_clients: int) -> None:
    """Raise UserMistake if so many clients cannot each have an example, or ``min_examples`` of them."""
    if num_clients > num_examples:
        raise UserMistake(
            f"federation.num_clients: {num_clients} clients are more than the {num_examples} training examples"
        )
    if settings.min_examples * num_clients > num_examples:
        raise UserMistake(
            f"data.partition.min_examples: {settings.min_examples} for each of {num_clients} clients are "
            f"{settings.min_examples * num_clients}, more than the {num_examples} training examples"
        )


def _check_minimum(settings: PartitionSettings, sizes: np.ndarray) -> None:
    smallest = int(sizes.argmin())
    if sizes[smallest] < settings.min_examples:
        raise UserMistake(
            f"data.partition.min_examples: {settings.min_examples}, but kind {settings.kind} gives client {smallest} "
            f"only {sizes[smallest]}; only kind dirichlet moves examples between clients"
        )


def _expanded(dealt: Partition, sizes: np.ndarray) -> Partition:
    """The partition of rows that follows from one of examples, each made into ``sizes[i]`` successive rows.

    >>> _expanded(Partition(np.array([0, 2, 1]), np.array([0, 2, 3])), np.array([2, 1, 3]))
    Partition(indices=array([0, 1, 3, 4, 5, 2]), offsets=array([0, 5, 6]))
    """
    starts = _offsets(sizes)[dealt.indices]
    ends = _offsets(sizes[dealt.indices])
    rows = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], sizes[dealt.indices])
    return Partition(rows, ends[dealt.offsets])


def _by_owner(owners: np.ndarray, num_clients: int) -> Partition:
    """The partition in which example ``i`` belongs to client ``owners[i]``."""
    sizes = np.bincount(owners, minlength=num_clients)
    return Partition(np.argsort(owners, kind="stable"), _offsets(sizes))


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


def _shuffled_within(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All examples sorted by ``ids``, in random order where the id is the same."""
    order = rng.permutation(len(ids))
    return order[np.argsort(ids[order], kind="stable")]


def draw_from_each(ids: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The positions in ``ids`` (int64 [N]) of ``counts[i]`` random examples of each id ``i``, in order of id."""
    order = _shuffled_within(ids, rng)
    sizes = np.bincount(ids, minlength=len(counts))
    rank_within = np.arange(len(ids)) - np.repeat(_offsets(sizes)[:-1], sizes)
    drawn: np.ndarray = order[rank_within < np.repeat(counts, sizes)]
    return drawn


def _owners(settings: PartitionSettings, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> np.ndarray:
    """The client of every example, of the kinds that deal each example once."""
    if isinstance(settings, ShardsPartition):
        return _shards(settings, labels, num_clients, rng)
    if isinstance(settings, DirichletPartition):
        return _dirichlet(settings, labels, num_clients, rng)
    return rng.permutation(np.arange(len(labels)) % num_clients)


def _shards(settings: ShardsPartition, labels: np.ndarray, num_clients: int, rng: np.random.Generator) -> np.ndarray:
    num_shards, num_examples = num_clients * settings.shards_per_client, len(labels)
    if num_shards > num_examples:
        raise UserMistake(
            f"data.partition.shards_per_client: {settings.shards_per_client} for each of {num_clients} clients are "
            f"{num_shards} shards, more than the {num_examples} training examples"
        )
    shard_owners = rng.permutation(np.arange(num_shards) // settings.shards_per_client)
    owners = np.empty(num_examples, dtype=np.int64)
    owners[_shuffled_within(labels, rng)] = shard_owners[np.arange(num_examples) * num_shards // num_examples]
    return owners


def _dirichlet(
    settings: DirichletPartition, labels: np.ndarray, num_clients: int, rng: np.random.Generator
) -> np.ndarray:
    """Each class in Dirichlet proportions, rounded along the cumulative sum.

    Proportions are exchangeable, so clients take them in an order drawn anew for each class: with more clients than
    examples of a class, rounding would otherwise favour the same clients every time.
    """
    order = _shuffled_within(labels, rng)
    owners = np.empty(len(labels), dtype=np.int64)
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        shares = np.cumsum(rng.dirichlet(np.full(num_clients, settings.alpha)))
        ends = np.rint(shares / shares[-1] * len(members)).astype(np.int64)
        owners[members] = np.repeat(rng.permutation(num_clients), np.diff(ends, prepend=0))
    return _with_minimum(owners, num_clients, settings.min_examples, rng)


def _with_minimum(owners: np.ndarray, num_clients: int, minimum: int, rng: np.random.Generator) -> np.ndarray:
    """Give clients below ``minimum`` what they lack, from the largest clients, who are levelled to one size.

    The usual way is to draw the whole partition again until it fits, which for many clients never ends.
    """
    sizes = np.bincount(owners, minlength=num_clients)
    lacking = np.maximum(minimum - sizes, 0)
    given = _taken_from_largest(sizes, int(lacking.sum()))
    moved = rng.permutation(draw_from_each(owners, given, rng))
    owners = owners.copy()
    owners[moved] = np.repeat(np.arange(num_clients), lacking)
    return owners


def _taken_from_largest(sizes: np.ndarray, total: int) -> np.ndarray:
    """How many each gives so that together they give ``total`` and the largest that is left is as small as can be.

    >>> _taken_from_largest(np.array([1, 9, 4, 7]), 4)
    array([0, 3, 0, 1])
    """

    def minus_surplus_over(level: int) -> int:
        return -int(np.maximum(sizes - level, 0).sum())

    level = bisect_right(range(int(sizes.max()) + 1), -total, key=minus_surplus_over) - 1
    taken: np.ndarray = np.maximum(sizes - level, 0)
    taken[np.flatnonzero(taken)[: taken.sum() - total]] -= 1
    return taken


def _k_shot(
    settings: KShotPartition,
    labels: np.ndarray,
    num_clients: int,
    rng: np.random.Generator,
    names: Sequence[str] | None,
) -> Partition:
    """``shots`` examples of every class for every client."""
    num_classes = int(labels.max(initial=-1)) + 1 if names is None else len(names)
    order = _shuffled_within(labels, rng)
    classes = np.split(order, _offsets(np.bincount(labels, minlength=num_classes))[1:-1])
    held = np.empty((num_clients, num_classes, settings.shots), dtype=np.int64)
    for label, members in enumerate(classes):
        needed = 1 if settings.replacement else num_clients * settings.shots
        if len(members) < needed:
            name = f" ('{names[label]}')" if names is not None else ""
            remedy = "" if settings.replacement else "; use replacement: true, fewer clients or fewer shots"
            raise UserMistake(
                f"data.partition: k_shot of {settings.shots} for {num_clients} clients needs {needed} examples of "
                f"class {label}{name}, the training split has {len(members)}{remedy}"
            )
        draw = _draw_anew(len(members), num_clients, settings.shots, rng) if settings.replacement else slice(needed)
        held[:, label] = members[draw].reshape(num_clients, settings.shots)
    indices = np.sort(held.reshape(num_clients, -1), axis=1).ravel()
    return Partition(indices, np.arange(num_clients + 1) * (num_classes * settings.shots))


def _draw_anew(num_members: int, num_clients: int, shots: int, rng: np.random.Generator) -> np.ndarray:
    """For every client ``shots`` of ``num_members``, int64 [num_clients, shots], distinct where there are enough.

    Floyd's sampling (Bentley and Floyd, 1987) of all clients at once: no redrawing, no permutation for each client.
    """
    if shots > num_members:
        return rng.integers(num_members, size=(num_clients, shots))
    drawn = np.empty((num_clients, shots), dtype=np.int64)
    for shot, last in enumerate(range(num_members - shots, num_members)):
        candidate = rng.integers(last + 1, size=num_clients)
        is_taken = (drawn[:, :shot] == candidate[:, None]).any(axis=1)
        drawn[:, shot] = np.where(is_taken, last, candidate)
    return drawn


def _by_column(settings: ByColumnPartition, groups: np.ndarray | None, num_clients: int | None) -> Partition:
    if groups is None:
        raise UserMistake(f"data.partition.column: the values of column '{settings.column}' are not given")
    values, owners = np.unique(groups, return_inverse=True)
    if num_clients not in (None, len(values)):
        raise UserMistake(
            f"federation.num_clients: {num_clients}, but column '{settings.column}' has {len(values)} values in the "
            f"training examples; leave num_clients out"
        )
    return _by_owner(owners, len(values))
