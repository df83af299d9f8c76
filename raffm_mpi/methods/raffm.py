"""RaFFM: Yu, Muñoz, Jannesari, Bridging the Gap Between Foundation Models and Heterogeneous Federated Learning, 2023.

Salient entries go to the front of the global model before each round (salient parameter prioritisation), and each
client trains the leading part that fits it (high-performance sub-model extraction).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from torch import Tensor

from raffm_mpi.config import RaFFMSettings
from raffm_mpi.elastic.cost import Cost
from raffm_mpi.elastic.labels import FULL, Selection, base
from raffm_mpi.elastic.salience import order
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.methods.base import Method
from raffm_mpi.methods.space import resolve
from raffm_mpi.seeds import generator


class RaFFM(Method):
    """Sub-models are prefixes of a model kept in order of salience; widths come from an elastic space."""

    def __init__(
        self, layout: ModelLayout, seed: int, price: Callable[[Selection], Cost], settings: RaFFMSettings
    ) -> None:
        super().__init__(layout, seed, price)
        self.space = resolve(settings.space, layout)
        self._widths = self._sandwich if settings.widths == "sandwich" else self._by_budget
        self._ordered = {
            "all": list(layout.sizes),
            "paper": [dimension for dimension in layout.sizes if base(dimension) == "key"],
            "none": [],
        }[settings.salience]
        priced = attrgetter({"parameters": "parameters", "flops": "forward_flops"}[settings.budget_of])
        self._of_budget = [self.space.within_budget(b, lambda s: priced(price(s))) for b in settings.budgets]

    def order(self, tensors: Mapping[str, Tensor]) -> Selection:
        return order(tensors, self.layout, self._ordered)

    def selections(self, round: int, cohort: Sequence[int]) -> list[Selection]:
        return self._widths(round, cohort)

    def ladder(self) -> list[Selection]:
        path = self.space.path
        return [FULL, *(path[len(path) * third // 3] for third in (2, 1)), path[0]]

    def _sandwich(self, round: int, cohort: Sequence[int]) -> list[Selection]:
        """The sandwich rule (Yu and Huang, 2019): the full model, the smallest, and random ones for the others."""
        fixed = [FULL, self.space.smallest()]
        drawn = [self.space.random(generator(self.seed, "widths", round, client)) for client in cohort[2:]]
        return fixed[: len(cohort)] + drawn

    def _by_budget(self, round: int, cohort: Sequence[int]) -> list[Selection]:
        """Each client's largest sub-model within its budget, which it keeps over all rounds."""
        drawn = (generator(self.seed, "budget", client).integers(len(self._of_budget)) for client in cohort)
        return [self._of_budget[number] for number in drawn]
