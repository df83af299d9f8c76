"""Nested settings and attributes by dotted names, as overrides spell them and the log stores them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values, in order; an empty mapping is a value.

    >>> dict(flat({"seed": 0, "model": {"family": "vit", "config": {"layers": 2}, "lora": {}}}))
    {'seed': 0, 'model.family': 'vit', 'model.config.layers': 2, 'model.lora': {}}
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
