"""RaFFM: Yu, Muñoz, Jannesari, Bridging the Gap Between Foundation Models and Heterogeneous Federated Learning, 2023.

Salient entries go to the front of the global model before each round (salient parameter prioritisation), and each
client trains the leading part that fits it (high-performance sub-model extraction).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from raffm_mpi.config import RaFFMSettings, SandwichBudget
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.elastic.salience import order, paper_dimensions
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.learning.objective import Nested
from raffm_mpi.methods.base import Fits, Method, Price
from raffm_mpi.methods.budget import Budgets
from raffm_mpi.methods.space import resolve
from raffm_mpi.seeds import generator

_PUPILS = 4  # random sub-models, of which a client that distils draws one a step


class RaFFM(Method):
    """Sub-models are prefixes of a model kept in order of salience; widths come from an elastic space."""

    def __init__(
        self, layout: ModelLayout, seed: int, price: Price, settings: RaFFMSettings, fits: Fits | None = None
    ) -> None:
        super().__init__(layout, seed, price, settings, fits)
        self.space = resolve(settings.space, layout)
        self.needs_update = settings.salience == "first_order"
        budget = settings.budget
        self._budgets = (
            None if isinstance(budget, SandwichBudget) else Budgets(budget, self.space.path, price, seed, fits)
        )
        self._ordered = _ordered(settings, layout)

    @classmethod
    def check(cls, settings: RaFFMSettings, layout: ModelLayout) -> None:
        resolve(settings.space, layout)
        _ordered(settings, layout)

    def order(self, tensors: Mapping[str, Tensor], update: Mapping[str, Tensor] | None = None) -> Selection:
        """Of largest magnitude first, or of largest first-order importance |w Δw| (Molchanov et al., 2017).

        The update Δw stands for the clients' gradients: with SGD it is their weighted sum, times -learning rate.
        """
        if update is not None:
            tensors = {name: tensor * update[name] for name, tensor in tensors.items()}
        return order(tensors, self.layout, self._ordered)

    def selections(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        if self._budgets:
            return [self._budgets.of(client) for client in cohort]
        return self._sandwich(round_number, cohort)

    def nested(self, round_number: int, client: int, selection: Selection) -> Nested | None:
        """In-place distillation (Yu and Huang, 2019): who holds the full model teaches the smallest and random ones."""
        if selection or not self.settings.distillation:
            return None
        drawn = generator(self.seed, "pupils", round_number, client)
        pupils = tuple(self.space.random(drawn) for _ in range(_PUPILS))
        return Nested(always=(self.space.smallest(),), drawn=pupils, distillation=self.settings.distillation)

    def ladder(self) -> list[Selection]:
        if self._budgets:
            return self._budgets.ladder()
        path = self.space.path
        return [FULL, *(path[len(path) * third // 3] for third in (2, 1)), path[0]]

    def _sandwich(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        """The sandwich rule (Yu and Huang, 2019): the full model, the smallest, and random ones for the others."""
        fixed = [FULL, self.space.smallest()]
        drawn = [self.space.random(generator(self.seed, "widths", round_number, client)) for client in cohort[2:]]
        return fixed[: len(cohort)] + drawn


def _ordered(settings: RaFFMSettings, layout: ModelLayout) -> list[str]:
    """The dimensions that are kept in order of salience."""
    if settings.salience == "paper":
        return paper_dimensions(layout, "method.salience")
    return [] if settings.salience == "none" else list(layout.sizes)
