"""Random numbers keyed by what they are for, never by rank, order or clock."""

from __future__ import annotations

import hashlib

import numpy as np


def _entropy(seed: int, purpose: str, key: tuple[int, ...]) -> list[int]:
    label = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    return [seed, label, *key]


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """The generator of one purpose, such as ``generator(seed, "cohort", round)``: the same on every rank.

    >>> generator(0, "cohort", 3).integers(100) == generator(0, "cohort", 3).integers(100)
    np.True_
    """
    return np.random.default_rng(_entropy(seed, purpose, key))


def torch_seed(seed: int, purpose: str, *key: int) -> int:
    """A 63-bit seed for ``torch.manual_seed``, keyed like :func:`generator`."""
    return int(np.random.SeedSequence(_entropy(seed, purpose, key)).generate_state(1, np.uint64)[0] >> np.uint64(1))
