"""Extraction, salience ordering and aggregation of ten clients at ViT-base size, against straightforward torch code.

python benchmarks/elastic_core.py [repeats]
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification

from raffm_mpi.aggregation.exact import ExactSum, apply_update
from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.labels import union, within
from raffm_mpi.elastic.packing import pack
from raffm_mpi.elastic.salience import order
from raffm_mpi.elastic.submodel import Shell, extract

torch.set_num_threads(1)
torch.manual_seed(0)
MODEL = AutoModelForImageClassification.from_config(AutoConfig.for_model("vit", num_labels=10))
LAYOUT = layout_of(MODEL)
TENSORS = pack(LAYOUT, {name: parameter.detach() for name, parameter in MODEL.named_parameters()}).tensors
NUM_LAYERS, HEADS, HEAD_WIDTH, FFN = 12, 12, 64, 3072


def widths(client: int) -> dict[str, int]:
    """Heads and FFN widths of a client: from half to all."""
    selection = {}
    for layer in range(NUM_LAYERS):
        selection[f"head[{layer}]"] = 6 + (client + layer) % 7
        selection[f"ffn[{layer}]"] = FFN // 8 * (4 + (client + 2 * layer) % 5)
    return selection


def layers(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    return [(layer.attention, layer.mlp) for layer in model.vit.layers]


def plain_extract(selection: dict[str, int]) -> nn.Module:
    """Copy the whole model, then cut each Linear."""
    model = copy.deepcopy(MODEL)
    for number, (attention, mlp) in enumerate(layers(model)):
        heads, ffn = selection[f"head[{number}]"], selection[f"ffn[{number}]"]
        rows = heads * HEAD_WIDTH
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            linear.weight = nn.Parameter(linear.weight[:rows].clone())
            linear.bias = nn.Parameter(linear.bias[:rows].clone())
        attention.o_proj.weight = nn.Parameter(attention.o_proj.weight[:, :rows].clone())
        attention.num_attention_heads = heads
        mlp.fc1.weight = nn.Parameter(mlp.fc1.weight[:ffn].clone())
        mlp.fc1.bias = nn.Parameter(mlp.fc1.bias[:ffn].clone())
        mlp.fc2.weight = nn.Parameter(mlp.fc2.weight[:, :ffn].clone())
    return model


def plain_order() -> dict[str, torch.Tensor]:
    """Sort the FFN of each layer, and Q and K within each head, by mean magnitude."""
    state = {name: tensor.clone() for name, tensor in TENSORS.items()}
    for number in range(NUM_LAYERS):
        prefix = f"vit.layers.{number}"
        fc1, fc2 = state[f"{prefix}.mlp.fc1.weight"], state[f"{prefix}.mlp.fc2.weight"]
        by_size = (fc1.abs().mean(1) + fc2.abs().mean(0)).argsort(descending=True)
        state[f"{prefix}.mlp.fc1.weight"], state[f"{prefix}.mlp.fc2.weight"] = fc1[by_size], fc2[:, by_size]
        state[f"{prefix}.mlp.fc1.bias"] = state[f"{prefix}.mlp.fc1.bias"][by_size]
        query, key = (state[f"{prefix}.attention.{name}_proj.weight"] for name in "qk")
        score = (query.abs().mean(1) + key.abs().mean(1)).reshape(HEADS, HEAD_WIDTH)
        within_head = score.argsort(dim=1, descending=True) + torch.arange(HEADS)[:, None] * HEAD_WIDTH
        for name in "qk":
            for part in ("weight", "bias"):
                tensor = state[f"{prefix}.attention.{name}_proj.{part}"]
                state[f"{prefix}.attention.{name}_proj.{part}"] = tensor[within_head.flatten()]
    return state


SAME_DIMENSIONS = [d for d in LAYOUT.sizes if d.startswith(("ffn", "key"))]
SELECTIONS = [widths(client) for client in range(10)]
WEIGHTS = [100 + client for client in range(10)]
UPDATES = [
    {name: torch.randn(LAYOUT.shape(name, selection)) * 1e-3 for name in LAYOUT.labels} for selection in SELECTIONS
]


def plain_aggregate() -> dict[str, torch.Tensor]:
    """Float32 sums and counts of the padded updates."""
    sums = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    counts = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    for weight, update in zip(WEIGHTS, UPDATES, strict=True):
        for name, tensor in update.items():
            region = tuple(slice(length) for length in tensor.shape)
            sums[name][region] += weight * tensor
            counts[name][region] += weight
    return {name: TENSORS[name] + sums[name] / counts[name].clamp(min=1) for name in sums}


def exact_aggregate() -> dict[str, torch.Tensor]:
    target = {name: tensor.clone() for name, tensor in TENSORS.items()}
    envelope = union(LAYOUT, SELECTIONS)
    total = ExactSum.zeros(LAYOUT.restrict(envelope), sum(WEIGHTS))
    for selection, weight, update in zip(SELECTIONS, WEIGHTS, UPDATES, strict=True):
        total.add(within(envelope, selection), update, weight)
    apply_update(target, LAYOUT, total, envelope, SELECTIONS, WEIGHTS)
    return target


SHELL = Shell(MODEL)


def refill() -> nn.Module:
    """What a group does for each client: the shell is made once."""
    tensors = {name: tensor.contiguous().clone() for name, tensor in LAYOUT.take(TENSORS, SELECTIONS[0]).items()}
    return SHELL.fill(LAYOUT.restrict(SELECTIONS[0]), tensors)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "extract a sub-model": (lambda: extract(MODEL, LAYOUT, SELECTIONS[0]), lambda: plain_extract(SELECTIONS[0])),
        "extract, shell kept": (refill, lambda: plain_extract(SELECTIONS[0])),
        "order FFN and keys": (
            lambda: LAYOUT.take(TENSORS, order(TENSORS, LAYOUT, SAME_DIMENSIONS)),
            plain_order,
        ),
        "order everything (no plain twin)": (
            lambda: LAYOUT.take(TENSORS, order(TENSORS, LAYOUT, list(LAYOUT.sizes))),
            plain_order,
        ),
        "aggregate ten clients": (exact_aggregate, plain_aggregate),
    }
    print(f"{'':34}{'ours':>9}{'plain':>9}   ours/plain: median (range)")
    for name, (ours, plain) in pairs.items():
        ours(), plain()
        timed = [(seconds(ours), seconds(plain)) for _ in range(repeats)]
        ratios = [a / b for a, b in timed]
        print(
            f"{name:34}{statistics.median(a for a, _ in timed):8.3f}s{statistics.median(b for _, b in timed):8.3f}s"
            f"   {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )
    gap = max(
        float((a - b).abs().max()) for a, b in zip(exact_aggregate().values(), plain_aggregate().values(), strict=True)
    )
    print(f"largest difference between the two aggregates: {gap:.1e}")


if __name__ == "__main__":
    main()
