"""Adapters of several ranks: HetLoRA, FlexLoRA and FLoRA's stacking.

In all of them a client trains the leading part of the adapters that its rank allows, with the full rank's alpha / r.
Task heads are averaged as FedAvg does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from raffm_mpi.aggregation.base import Aggregator, Gathered
from raffm_mpi.aggregation.exact import ExactSum, apply_update, mean_where_held
from raffm_mpi.aggregation.server_optimizer import ServerOptimizer
from raffm_mpi.elastic.adapters import Adapter, adapters_of
from raffm_mpi.elastic.cost import FLOAT32_BYTES, count_parameters
from raffm_mpi.elastic.labels import Selection, Tensors, union, within
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.seeds import torch_seed

# Norms of adapters as weights: whole numbers of 2^-21, and at most 2^10.
_NORM_BITS = 31
_NORM_UNIT = 2.0**-21


class HetLoRA(Aggregator):
    """HetLoRA (Cho et al., 2024, arXiv 2401.06432): zero padding, and weights by the norm of what adapters do.

    The global factors become the mean of the clients' factors, padded with zeros to the largest rank among them:

        F = sum_k s_k pad(F_k) / sum_k s_k,   s_k = ||B_k A_k||, the Frobenius norm over all adapters of client k

    This dilutes by design: what few clients have the rank for shrinks in every round. A client's norm counts as a whole
    number of 2^-21, from 1 to 2^31, so that sums stay exact. What no client's width holds keeps its value. Not done is
    HetLoRA's pruning of ranks by the clients themselves.
    """

    def __init__(self, layout: ModelLayout) -> None:
        super().__init__(layout)
        self.adapters = adapters_of(layout)
        self.factors = frozenset(name for adapter in self.adapters for name in (adapter.a, adapter.b))
        self.others = frozenset(self.sent.labels) - self.factors

    def total_weight(self, weights: Sequence[int]) -> int:
        return max(sum(weights), len(weights) << _NORM_BITS)

    def contribution(self, received: Tensors, trained: Tensors) -> Tensors:
        """The factors themselves, and the update of the rest."""
        return {
            name: tensor if name in self.factors else tensor.sub_(received[name]) for name, tensor in trained.items()
        }

    def add(self, total: ExactSum, selection: Selection, contribution: Tensors, weight: int) -> int:
        own = norm_weight(self.adapters, contribution)
        for names, by in ((self.factors, own), (self.others, weight)):
            total.add(selection, {name: tensor for name, tensor in contribution.items() if name in names}, by)
        return own

    def apply(
        self,
        tensors: Mapping[str, Tensor],
        total: ExactSum,
        gathered: Gathered,
        optimizer: ServerOptimizer | None = None,
    ) -> None:
        envelope, selections = gathered.envelope, gathered.selections
        apply_update(tensors, self.sent, total.part(self.others), envelope, selections, gathered.weights)
        ranks = {adapter.rank for adapter in self.adapters}
        largest = {d: index for d, index in union(self.sent, selections).items() if d in ranks}
        padded = [
            within(envelope, {**{d: index for d, index in selection.items() if d not in ranks}, **largest})
            for selection in selections
        ]
        for name in total.part(self.factors).packed.tensors:
            old = self.sent.take({name: tensors[name]}, envelope)[name]
            new = mean_where_held(total, name, padded, gathered.reported, old)
            self.sent.put(tensors, envelope, {name: new.float()})


class FlexLoRA(Aggregator):
    """FlexLoRA (Bai et al., 2024, arXiv 2402.11505): the mean of the products, decomposed again by the server.

        W = sum_k n_k B_k A_k / sum_k n_k,   W = U S V^T,   B = U S,   A = V^T

    The leading singular values make up the factors, up to the largest rank, and each client takes as many as its rank
    allows. The products are summed exactly, in the full size of the base weights.
    """

    def __init__(self, layout: ModelLayout) -> None:
        super().__init__(layout)
        self.adapters = adapters_of(layout)
        self.summed, self.others = _with_products(layout, self.adapters)

    def contribution(self, received: Tensors, trained: Tensors) -> Tensors:
        """The products of the factors, and the update of the rest."""
        products = {adapter.base: adapter.product(trained) for adapter in self.adapters}
        return products | {name: trained[name].sub_(received[name]) for name in self.others}

    def apply(
        self,
        tensors: Mapping[str, Tensor],
        total: ExactSum,
        gathered: Gathered,
        optimizer: ServerOptimizer | None = None,
    ) -> None:
        envelope, selections = gathered.envelope, gathered.selections
        apply_update(tensors, self.sent, total.part(self.others), envelope, selections, gathered.weights)
        inner = [within(envelope, selection) for selection in selections]
        for adapter in self.adapters:
            products = {adapter.base: adapter.product(tensors)}
            old = self.summed.take(products, envelope)[adapter.base]
            mean = mean_where_held(total, adapter.base, inner, gathered.weights, old)
            self.summed.put(products, envelope, {adapter.base: mean})
            write_factors(adapter, products[adapter.base], tensors)


class Stacking(Aggregator):
    """FLoRA (Wang et al., 2024, arXiv 2409.05976): the stack of all adapters, merged into the base.

        W += alpha / r * sum_k n_k B_k A_k / sum_k n_k

    Adapters begin anew in every round, A from the seed and the round, B zero. So this is the one aggregator that
    changes the base. A client of FLoRA gets the stack of the others' adapters and merges it itself, which is what its
    logged bytes count; between the ranks of this simulation the merged base weights travel.
    """

    keeps_base = False

    def __init__(self, layout: ModelLayout, scaling: float, seed: int) -> None:
        super().__init__(layout)
        self.adapters = adapters_of(layout)
        self.scaling = scaling
        self.seed = seed
        self.own = self.sent  # a client's
        self.summed, self.others = _with_products(layout, self.adapters)
        self.sent = layout.part({*self.own.labels, *self.summed.labels})

    def contribution(self, received: Tensors, trained: Tensors) -> Tensors:
        """The updates of base weights that the adapters stand for, and of the rest."""
        products = {adapter.base: adapter.product(trained).mul_(self.scaling) for adapter in self.adapters}
        return products | {name: trained[name].sub_(received[name]) for name in self.others}

    def apply(
        self,
        tensors: Mapping[str, Tensor],
        total: ExactSum,
        gathered: Gathered,
        optimizer: ServerOptimizer | None = None,
    ) -> None:
        apply_update(tensors, self.sent, total, gathered.envelope, gathered.selections, gathered.weights)
        generator = torch.Generator().manual_seed(torch_seed(self.seed, "adapters", gathered.round_number + 1))
        for adapter in self.adapters:
            bound = tensors[adapter.a].shape[1] ** -0.5  # peft's, and that of nn.Linear
            tensors[adapter.a].uniform_(-bound, bound, generator=generator)
            tensors[adapter.b].zero_()

    def bytes_down(self, bytes_up: np.ndarray, selections: Sequence[Selection]) -> np.ndarray:
        """A head and the adapters of the whole cohort, in the client's own width."""
        ranks = {a.rank: sum(self.own.size(a.rank, selection) for selection in selections) for a in self.adapters}
        stacks = [count_parameters(self.own, {**selection, **ranks}) for selection in selections]
        return FLOAT32_BYTES * np.array(stacks, np.int64)


def norm_weight(adapters: Sequence[Adapter], factors: Mapping[str, Tensor]) -> int:
    """The Frobenius norm of all products B A together, as a whole number of 2^-21 from 1 to 2^31.

    It is the trace of (B^T B)(A A^T), matrices of the size of the rank.
    """
    square = 0.0
    for adapter in adapters:
        a, b = factors[adapter.a].double(), factors[adapter.b].double()
        square += float(((b.T @ b) * (a @ a.T)).sum())
    units: int = round(math.sqrt(max(0.0, square)) / _NORM_UNIT)
    return min(max(1, units), 1 << _NORM_BITS)


def write_factors(adapter: Adapter, product: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """Write the factors whose product is nearest to a matrix (float64, in the base weight's shape), in place.

    B has the singular values, largest first; where the rank is more than there are, the rest is zero.
    """
    u, s, vh = torch.linalg.svd(product.T if adapter.transposed else product, full_matrices=False)
    a, b = tensors[adapter.a].zero_(), tensors[adapter.b].zero_()
    rank = min(len(s), len(a))
    a[:rank].copy_(vh[:rank])
    b[:, :rank].copy_(u[:, :rank] * s[:rank])


def _with_products(layout: ModelLayout, adapters: Sequence[Adapter]) -> tuple[ModelLayout, frozenset[str]]:
    """The layout of a sum of products, in the shape of the base weights; and what else is trained, which is in it."""
    others = set(layout.trained) - {name for adapter in adapters for name in (adapter.a, adapter.b)}
    return layout.part(others | {adapter.base for adapter in adapters}), frozenset(others)
