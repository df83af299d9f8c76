"""The models of the benchmarks that take none from the hub: ViTs of several sizes, as settings of a run."""

from __future__ import annotations

from typing import Any


def vit(hidden: int, layers: int, heads: int, ffn: int, image: int, patch: int, channels: int = 3) -> dict[str, Any]:
    """The settings ``model`` of a ViT of these sizes."""
    config = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "image_size": image,
        "patch_size": patch,
        "num_channels": channels,
    }
    return {"family": "vit", "config": config}


TINY = vit(24, 2, 3, 48, image=8, patch=4, channels=1)  # on scikit-learn's digits: what a round costs beside training
SMALL = vit(64, 4, 4, 128, image=8, patch=2, channels=1)  # on the digits
REDUCED = vit(64, 4, 4, 256, image=32, patch=8)  # on CIFAR-10, at a size that trains on a few cores
MEDIUM = vit(192, 6, 3, 768, image=32, patch=4)  # on CIFAR-10
