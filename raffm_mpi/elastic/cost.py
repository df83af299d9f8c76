"""What a sub-model costs, counted from labels and sizes before anything is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.labels import DENSE, DENSITY, FULL, Selection, num_kept
from raffm_mpi.elastic.table import ModelLayout

FLOAT32_BYTES = 4
# Float32 values that an optimiser keeps for each parameter.
OPTIMIZER_STATE = {"adamw": 2, "sgd": 0, "sgd_momentum": 1}


class Lengths(TypedDict, total=False):
    """Mean tokens of a data set's examples; image models know their own."""

    num_tokens: float
    num_targets: float


@dataclass(frozen=True)
class Cost:
    """The cost of one sub-model: FLOPs of one example, bytes of one transfer.

    ``parameters`` are those that are trained, and travel: of a model with adapters not the frozen base.
    """

    parameters: int
    forward_flops: int
    training_flops: int
    mask_bytes: int = 0  # a bit an entry of the matrices, where the sub-model is less dense

    @property
    def bytes(self) -> int:
        """Bytes of the parameters on the wire, as float32."""
        return FLOAT32_BYTES * self.parameters


def cost(
    layout: ModelLayout,
    selection: Selection = FULL,
    *,
    num_tokens: float | None = None,
    num_targets: float | None = None,
) -> Cost:
    """The cost of a sub-model on examples of ``num_tokens`` tokens (which image models know themselves).

    A decoder that stands beside an encoder sees ``num_targets`` tokens, or as many as the encoder if left out.

    A multiplication and an addition are two FLOPs; what is not a matrix product is not counted, as in torch's
    ``FlopCounterMode``. Training is the forward pass and two such passes backward, one for what reads the input itself;
    a frozen matrix has no gradient of its own, which is one pass less. A less dense
    sub-model computes as a dense one does.
    """
    sub = layout.restrict(selection)
    shapes = sub.shapes
    positions = _positions(layout, num_tokens, num_targets)
    forward = training = 0.0
    for name, place in sub.matmuls:
        flops = 2 * positions[place] * math.prod(shapes[name])
        forward += flops
        training += ((2 if place == "patches" else 3) - (name in sub.frozen)) * flops
    for dimensions, (first, second), _ in sub.products:
        pairs = positions[first] * positions[second]
        flops = 2 * pairs * math.prod(sub.size(d) for d in dimensions)
        forward += flops
        training += 3 * flops
    trained = sub.part(sub.trained)
    matrices = [shape for shape in trained.shapes.values() if len(shape) > 1]
    masked = 0 if sub.size(DENSITY) == DENSE else sum(math.prod(shape) for shape in matrices)
    return Cost(count_parameters(trained), round(forward), round(training), -(-masked // 8))


def count_parameters(layout: ModelLayout, selection: Selection = FULL) -> int:
    """The number of parameters that a sub-model keeps, trained or frozen; tied ones count once."""
    density = layout.size(DENSITY, selection)
    shapes = [layout.shape(name, selection) for name in layout.labels if layout.holds(name, selection)]
    return sum(num_kept(math.prod(shape), density) if len(shape) > 1 else math.prod(shape) for shape in shapes)


def peak_training_bytes(
    layout: ModelLayout,
    selection: Selection = FULL,
    *,
    batch_size: int,
    num_tokens: float | None = None,
    num_targets: float | None = None,
    optimizer: str = "adamw",
) -> int:
    """Estimated peak memory of float32 training: parameters, gradients, optimiser state and saved activations.

    Activations are each matrix product's output, each norm's output, and each product's input that no norm made (the
    activation function's and the attention's output), as autograd keeps them, and what the family's ``kept`` adds;
    attention is taken as fused (its scores are not kept) and dropout as off.
    """
    sub = layout.restrict(selection)
    positions = _positions(layout, num_tokens, num_targets)
    norms = [name for name, label in sub.labels.items() if len(label) == 1 and name.endswith(".weight")]
    normed = {sub.labels[name] for name in norms}
    kept = layout.family.kept
    activations = kept.norm * sum(positions[sub.places[name]] * sub.shapes[name][0] for name in norms)
    for (outer, *_), (first, second), _ in sub.products[::2]:
        activations += kept.scores * positions[first] * positions[second] * sub.size(outer)
    for name, place in sub.matmuls:
        step = -1 if name in sub.transposed else 1
        (outputs, *inputs), label = sub.shapes[name][::step], sub.labels[name][::step]
        is_hidden = Kind.FFN in sub.kinds_on(label[0])
        activations += positions[place] * outputs * (1 + kept.ffn * is_hidden)
        if label[1:2] not in normed:
            activations += positions[place] * math.prod(inputs)
    dense = {DENSITY: DENSE}
    trained = count_parameters(sub.part(sub.trained), dense)
    values = count_parameters(sub, dense) + trained * (1 + OPTIMIZER_STATE[optimizer]) + batch_size * activations
    return round(FLOAT32_BYTES * values)


def _positions(layout: ModelLayout, num_tokens: float | None, num_targets: float | None) -> dict[str, float]:
    """How often each place is passed in one example."""
    given = {"tokens": num_tokens, "target": num_tokens if num_targets is None else num_targets}
    return {"once": 1, **{place: number for place, number in given.items() if number is not None}, **layout.lengths}
