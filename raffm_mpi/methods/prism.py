"""PriSM: sub-models of principal components.

Niu, Prakash, Kundu, Lee, Avestimehr, Overcoming Resource Constraints in Federated Learning: Large Models Can Be Trained
with only Weak Clients, TMLR 2023. Every linear layer is factorised; the server decomposes the products of what it has
aggregated again in each round, which rounds every weight: this is the method that changes the model's bits even where
no client changed anything. A component's chance is its singular value's share in the model that the run begins with,
which every rank knows; the paper takes that of the round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raffm_mpi.elastic.factors import decompose, factor_pairs, factorise, principal
from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.labels import Selection, count
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake
from raffm_mpi.methods.base import Fits, Price
from raffm_mpi.methods.budget import Budgeted
from raffm_mpi.seeds import generator

_STEPS = 64


class PriSM(Budgeted):
    """A client holds the same share of each matrix's components, drawn in each round, the principal ones likelier."""

    def __init__(self, layout: ModelLayout, seed: int, price: Price, settings: Any, fits: Fits | None = None) -> None:
        super().__init__(layout, seed, price, settings, fits)
        self._chances: dict[str, np.ndarray] = {}

    @classmethod
    def prepare(cls, model: nn.Module) -> nn.Module:
        try:
            return factorise(model)
        except UserMistake as error:
            raise UserMistake(f"method.prism: {error}") from None

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        values = principal(tensors, self.layout)
        self._chances = {rank: (value / value.sum()).cpu().numpy() for rank, value in values.items()}

    def path(self) -> Sequence[Selection]:
        ranks = {rank: self.layout.sizes[rank] for rank in self.layout.of_kind(Kind.RANK)}
        steps = [{rank: max(1, size * step // _STEPS) for rank, size in ranks.items()} for step in range(1, _STEPS)]
        return [*steps, {}]

    def selections(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        return [self._draw(round_number, client, self.budgets.of(client)) for client in cohort]

    def rewrite(self, tensors: Mapping[str, Tensor]) -> None:
        for up, down, _ in factor_pairs(self.layout):
            product = tensors[up].double() @ tensors[down].double()
            for name, factor in zip((up, down), decompose(product), strict=True):
                tensors[name].copy_(factor)

    def _draw(self, round_number: int, client: int, allowed: Selection) -> Selection:
        """As many components of each matrix as are allowed, without replacement: ascending indices."""
        draws = generator(self.seed, "components", round_number, client)
        sizes = self.layout.sizes
        return {
            rank: torch.from_numpy(np.sort(draws.choice(sizes[rank], count(kept), False, self._chances.get(rank))))
            for rank, kept in allowed.items()
        }
