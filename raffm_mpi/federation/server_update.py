"""What the server does with a round's sums: aggregate, rewrite, reorder. ``calibrate`` times these same functions."""

from __future__ import annotations

from torch import Tensor

from raffm_mpi.aggregation import Gathered
from raffm_mpi.aggregation.exact import ExactSum
from raffm_mpi.aggregation.server_optimizer import ServerOptimizer
from raffm_mpi.elastic.packing import Packed, pack, views
from raffm_mpi.federation.experiment import Outline


def server_update(
    experiment: Outline, model: Packed, total: ExactSum, gathered: Gathered, optimizer: ServerOptimizer
) -> Packed:
    """The global model after a round, of the aggregator's ``sent`` layout; ``model`` and the optimizer's state change.

    ``total`` is the exact sum of the clients in ``gathered``, over the round's envelope.
    """
    before = model.buffer.clone() if experiment.method.needs_update else None
    experiment.aggregator.apply(model.tensors, total, gathered, optimizer)
    experiment.method.rewrite(model.tensors)
    return reorder(experiment, model, optimizer, before)


def reorder(experiment: Outline, model: Packed, optimizer: ServerOptimizer, before: Tensor | None = None) -> Packed:
    """The model, and the optimizer's state with it, in the method's order; the same function as before.

    A frozen base was put in order before the first round, on every rank. ``before`` is the model's buffer before the
    last update, for a method that looks at that.
    """
    if experiment.layout.frozen:
        return model
    layout = experiment.aggregator.sent
    update = None if before is None else views(layout, model.buffer - before)
    order = experiment.method.order(model.tensors, update)
    if not order:
        return model
    layout.check(order)
    optimizer.reorder(order)
    return pack(layout, layout.take(model.tensors, order))
