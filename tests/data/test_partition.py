"""Every kind of partition: who holds what, how much, and by which seed."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from raffm_mpi.config import AnyPartition, ByColumnPartition, IIDPartition, KShotPartition
from raffm_mpi.data import Partition, partition
from raffm_mpi.data.partitions import draw_from_each
from raffm_mpi.errors import UserMistake

CHOICE = TypeAdapter(AnyPartition)
COVERING_KINDS = ("iid", "dirichlet", "shards", "by_column")


def make_labels(num_examples: int, num_classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(num_classes, size=num_examples)


def deal(kind: str, labels: np.ndarray, num_clients: int, seed: int = 0, **options: object) -> Partition:
    """A partition of any kind; by_column deals by a made-up column with one value for each client."""
    if kind == "by_column":
        groups = np.random.default_rng(1).permutation(np.arange(len(labels)) % num_clients)
        return partition(ByColumnPartition(column="user"), labels, None, seed, groups)
    return partition(CHOICE.validate_python({"kind": kind, **options}), labels, num_clients, seed)


def skew(dealt: Partition, labels: np.ndarray) -> float:
    """Mean total variation distance between a client's label distribution and everyone's."""
    everyone = np.bincount(labels) / len(labels)
    distances = []
    for k in range(dealt.num_clients):
        own = np.bincount(labels[dealt.client(k)], minlength=len(everyone)) / dealt.sizes[k]
        distances.append(np.abs(own - everyone).sum() / 2)
    return float(np.mean(distances))


@pytest.mark.parametrize("kind", COVERING_KINDS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_clients_are_disjoint_and_cover_the_training_split(kind: str, data: st.DataObject) -> None:
    num_clients = data.draw(st.integers(1, 40))
    num_examples = data.draw(st.integers(2 * num_clients, 300))
    labels = make_labels(num_examples, data.draw(st.integers(1, 12)))
    dealt = deal(kind, labels, num_clients, seed=data.draw(st.integers(0, 5)))
    assert dealt.num_clients == num_clients
    assert dealt.indices.dtype == dealt.offsets.dtype == np.int64
    assert np.array_equal(np.sort(dealt.indices), np.arange(num_examples))
    assert np.array_equal(np.concatenate([dealt.client(k) for k in range(num_clients)]), dealt.indices)
    assert all((np.diff(dealt.client(k)) > 0).all() for k in range(num_clients))
    assert dealt.sizes.sum() == num_examples


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("iid", {}),
        ("dirichlet", {}),
        ("shards", {}),
        ("k_shot", {"shots": 3}),
        ("k_shot", {"shots": 3, "replacement": True}),
    ],
)
def test_the_seed_alone_decides(kind: str, options: dict[str, Any]) -> None:
    labels = make_labels(600, 5)
    first, again, other = (deal(kind, labels, 12, seed, **options) for seed in (7, 7, 8))
    assert np.array_equal(first.indices, again.indices) and np.array_equal(first.offsets, again.offsets)
    assert not np.array_equal(first.indices, other.indices)


def test_a_client_is_a_view() -> None:
    dealt = deal("iid", make_labels(20, 2), 4)
    assert dealt.client(2).base is dealt.indices


@given(num_clients=st.integers(1, 50), extra=st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_iid_sizes_differ_by_one_at_most(num_clients: int, extra: int) -> None:
    sizes = deal("iid", make_labels(num_clients + extra, 3), num_clients).sizes
    assert sizes.max() - sizes.min() <= 1


def test_iid_is_shuffled() -> None:
    labels = np.repeat(np.arange(10), 500)
    assert skew(deal("iid", labels, 10), labels) < 0.1


def test_larger_alpha_is_closer_to_the_global_label_distribution() -> None:
    labels = make_labels(20_000, 10)
    skews = [skew(deal("dirichlet", labels, 50, alpha=alpha), labels) for alpha in (0.01, 0.1, 1.0, 10.0, 1000.0)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.8 and skews[-1] < 0.05


def test_dirichlet_shares_of_a_class_follow_the_dirichlet_distribution() -> None:
    """The variance of a share of Dirichlet(alpha) over K clients is (K - 1) / (K^2 (K alpha + 1))."""
    labels = make_labels(40_000, 40)
    dealt, num_clients, alpha = deal("dirichlet", labels, 8, alpha=0.5), 8, 0.5
    counts = np.stack([np.bincount(labels[dealt.client(k)], minlength=40) for k in range(num_clients)])
    shares = counts / counts.sum(axis=0)
    expected = (num_clients - 1) / (num_clients**2 * (num_clients * alpha + 1))
    assert np.mean((shares - 1 / num_clients) ** 2) == pytest.approx(expected, rel=0.2)


def test_dirichlet_favours_no_client_when_classes_are_smaller_than_the_population() -> None:
    """With near-equal shares, rounding must not give every class to the same few clients."""
    sizes = deal("dirichlet", np.repeat(np.arange(10), 400), 1000, alpha=1e6).sizes
    assert np.std(sizes) < 2  # binomial: 1.5; every class to the same 400 clients: 3.7


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.1, 1e6])
@pytest.mark.parametrize("min_examples", [1, 5, 10])
def test_dirichlet_gives_everyone_the_minimum(alpha: float, min_examples: int) -> None:
    dealt = deal("dirichlet", make_labels(1000, 4), 100, alpha=alpha, min_examples=min_examples)
    assert dealt.sizes.min() >= min_examples
    assert np.array_equal(np.sort(dealt.indices), np.arange(1000))


def test_the_minimum_is_taken_from_the_largest_clients_only() -> None:
    labels = make_labels(3000, 6)
    free, bound = (deal("dirichlet", labels, 40, alpha=0.1, min_examples=n) for n in (1, 30))
    lost = np.flatnonzero(bound.sizes < free.sizes)
    level = bound.sizes[lost].max()
    assert len(lost) and bound.sizes[lost].min() >= level - 1
    assert (free.sizes[np.setdiff1d(np.arange(40), lost)] <= level).all()
    untouched = np.flatnonzero(bound.sizes == free.sizes)
    assert all(np.array_equal(bound.client(k), free.client(k)) for k in untouched.tolist())


def test_shards_limit_the_labels_of_a_client() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
    dealt = deal("shards", labels, 50, shards_per_client=2)
    assert (dealt.sizes == 20).all()
    num_labels = [len(np.unique(labels[dealt.client(k)])) for k in range(50)]
    assert max(num_labels) <= 2 and np.mean(num_labels) > 1.5


@pytest.mark.parametrize("replacement", [False, True])
def test_k_shot_gives_exactly_the_shots_of_each_class(replacement: bool) -> None:
    labels = make_labels(2000, 4)
    dealt = deal("k_shot", labels, 20, shots=16, replacement=replacement)
    for k in range(20):
        assert (np.bincount(labels[dealt.client(k)], minlength=4) == 16).all()
        assert len(np.unique(dealt.client(k))) == 64
    assert (len(np.unique(dealt.indices)) == 20 * 64) != replacement


def test_k_shot_with_replacement_draws_every_example_equally_often() -> None:
    dealt = deal("k_shot", np.zeros(20, dtype=np.int64), 20_000, shots=5, replacement=True)
    counts = np.bincount(dealt.indices, minlength=20)
    assert counts == pytest.approx(np.full(20, 5000), rel=0.05)


def test_k_shot_with_replacement_repeats_within_a_client_only_when_it_must() -> None:
    dealt = deal("k_shot", np.array([0, 0, 0, 1, 1, 1, 1, 1]), 50, shots=5, replacement=True)
    assert (dealt.sizes == 10).all()
    assert all(set(dealt.client(k)) >= {3, 4, 5, 6, 7} for k in range(50))


def test_by_column_gives_each_value_a_client_in_order_of_value() -> None:
    groups = np.array([7, 2, 7, 9, 2, 7])
    column = ByColumnPartition(column="user")
    for num_clients in (None, 3):
        dealt = partition(column, np.zeros(6, dtype=np.int64), num_clients, 0, groups)
        assert [list(dealt.client(k)) for k in range(3)] == [[1, 4], [0, 2, 5], [3]]


def test_draw_from_each_takes_so_many_of_each_id() -> None:
    ids = make_labels(500, 5)
    drawn = draw_from_each(ids, np.array([3, 0, 10, 1, 0]), np.random.default_rng(0))
    assert np.bincount(ids[drawn], minlength=5).tolist() == [3, 0, 10, 1, 0]
    assert len(np.unique(drawn)) == 14


ONE_OF_TWO = np.arange(1437) % 2
MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "more clients than examples": (
        lambda: deal("iid", ONE_OF_TWO, 5000),
        "federation.num_clients: 5000 clients are more than the 1437 training examples",
    ),
    "minimum of everyone": (
        lambda: deal("dirichlet", ONE_OF_TWO, 1000, min_examples=2),
        "data.partition.min_examples: 2 for each of 1000 clients are 2000, more than the 1437 training examples",
    ),
    "minimum of shards": (
        lambda: deal("shards", ONE_OF_TWO, 400, min_examples=3),
        "data.partition.min_examples: 3, but kind shards gives client .* only 2; only kind dirichlet moves examples",
    ),
    "more shards than examples": (
        lambda: deal("shards", ONE_OF_TWO, 1000, shards_per_client=3),
        "data.partition.shards_per_client: 3 for each of 1000 clients are 3000 shards, more than the 1437 training",
    ),
    "too few for the shots": (
        lambda: partition(KShotPartition(), np.repeat([0, 1], [9000, 120]), 100, 0, label_names=["dog", "cat"]),
        r"data.partition: k_shot of 16 for 100 clients needs 1600 examples of class 1 \('cat'\), the training split "
        "has 120; use replacement: true, fewer clients or fewer shots",
    ),
    "an empty class": (
        lambda: partition(KShotPartition(replacement=True), ONE_OF_TWO, 10, 0, label_names=["a", "b", "c"]),
        r"needs 1 examples of class 2 \('c'\), the training split has 0$",
    ),
    "other number of values": (
        lambda: partition(ByColumnPartition(column="user"), ONE_OF_TWO, 10, 0, ONE_OF_TWO),
        "federation.num_clients: 10, but column 'user' has 2 values in the training examples; leave num_clients out",
    ),
    "no column": (
        lambda: partition(ByColumnPartition(column="user"), ONE_OF_TWO, None, 0),
        "data.partition.column: the values of column 'user' are not given",
    ),
    "no number of clients": (
        lambda: partition(IIDPartition(), ONE_OF_TWO, None, 0),
        "federation.num_clients is missing; data.partition.kind iid cannot infer it",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_sentence(mistake: str) -> None:
    cause, sentence = MISTAKES[mistake]
    with pytest.raises(UserMistake, match=sentence) as caught:
        cause()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", COVERING_KINDS)
def test_a_million_clients_are_dealt_in_seconds_and_in_little_memory(kind: str) -> None:
    labels = make_labels(2_000_000, 10)
    tracemalloc.start()
    started = time.process_time()
    dealt = deal(kind, labels, 1_000_000)
    elapsed_s = time.process_time() - started
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dealt.num_clients == 1_000_000 and dealt.sizes.min() >= 1
    assert elapsed_s < 10
    assert peak_bytes < 300e6


def test_k_shot_with_replacement_for_a_hundred_thousand_clients() -> None:
    started = time.process_time()
    dealt = deal("k_shot", make_labels(50_000, 10), 100_000, shots=4, replacement=True)
    assert (dealt.sizes == 40).all()
    assert time.process_time() - started < 5
