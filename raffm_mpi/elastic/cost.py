"""What a sub-model costs, counted from labels and sizes before anything is built."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.elastic.table import ModelLayout

FLOAT32_BYTES = 4
# Float32 values that an optimiser keeps for each parameter.
OPTIMIZER_STATE = {"adamw": 2, "sgd": 0, "sgd_momentum": 1}


@dataclass(frozen=True)
class Cost:
    """The cost of one sub-model: FLOPs of one example, bytes of one transfer."""

    parameters: int
    forward_flops: int
    training_flops: int

    @property
    def bytes(self) -> int:
        """Bytes of the parameters on the wire, as float32."""
        return FLOAT32_BYTES * self.parameters


def cost(layout: ModelLayout, selection: Selection = FULL, *, num_tokens: float | None = None) -> Cost:
    """The cost of a sub-model on examples of ``num_tokens`` tokens (which image models know themselves).

    A multiplication and an addition are two FLOPs; what is not a matrix product is not counted, as in torch's
    ``FlopCounterMode``. Training is the forward pass and two such passes backward, one for what reads the input itself.
    """
    shapes = {name: layout.shape(name, selection) for name in layout.labels}
    positions = _positions(layout, num_tokens)
    forward = training = 0.0
    for name, place in layout.matmuls.items():
        flops = 2 * positions[place] * math.prod(shapes[name])
        forward += flops
        training += (2 if place == "patches" else 3) * flops
    for dimensions in layout.products:
        flops = 2 * positions["tokens"] ** 2 * math.prod(layout.size(d, selection) for d in dimensions)
        forward += flops
        training += 3 * flops
    return Cost(count_parameters(layout, selection), round(forward), round(training))


def count_parameters(layout: ModelLayout, selection: Selection = FULL) -> int:
    """The number of parameters of a sub-model; tied ones count once."""
    return sum(math.prod(layout.shape(name, selection)) for name in layout.labels)


def peak_training_bytes(
    layout: ModelLayout,
    selection: Selection = FULL,
    *,
    batch_size: int,
    num_tokens: float | None = None,
    optimizer: str = "adamw",
) -> int:
    """Estimated peak memory of float32 training: parameters, gradients, optimiser state and saved activations.

    Activations are each matrix product's output, each norm's output, and each product's input that no norm made (the
    activation function's and the attention's output), as autograd keeps them; attention is taken as fused (its scores
    are not kept) and dropout as off.
    """
    sub = layout.restrict(selection)
    positions = _positions(layout, num_tokens)
    normed = {label for name, label in sub.labels.items() if len(label) == 1 and name.endswith(".weight")}
    activations = 0.0
    for name, label in sub.labels.items():
        shape = sub.shapes[name]
        if label in normed and name.endswith(".weight"):
            activations += positions["tokens"] * shape[0]
        elif name in sub.matmuls:
            place = positions[sub.matmuls[name]]
            activations += place * shape[0]
            if label[1:2] not in normed:
                activations += place * math.prod(shape[1:])
    values = count_parameters(sub) * (2 + OPTIMIZER_STATE[optimizer]) + batch_size * activations
    return round(FLOAT32_BYTES * values)


def _positions(layout: ModelLayout, num_tokens: float | None) -> dict[str, float]:
    tokens = layout.fixed_tokens if layout.fixed_tokens is not None else num_tokens
    assert tokens is not None, f"family '{layout.family.name}' needs num_tokens"
    return {"tokens": tokens, "patches": tokens - layout.family.num_extra_tokens, "once": 1}
