"""Clients with budgets: each has the largest sub-model of a nested path that its budget, or its device, allows."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from raffm_mpi.config import DeviceBudget, DrawnBudget
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake
from raffm_mpi.methods.base import Fits, Method, Price
from raffm_mpi.methods.space import axes_of
from raffm_mpi.seeds import generator

_STEPS = 64  # of a path of equal widths


class Budgets:
    """Who has which budget, and what that allows of a path of sub-models (smallest first, each within the next)."""

    def __init__(
        self,
        budget: DrawnBudget | DeviceBudget,
        path: Sequence[Selection],
        price: Price,
        seed: int,
        fits: Fits | None,
    ) -> None:
        self.path = path
        self._seed = seed
        self._fits = fits if isinstance(budget, DeviceBudget) else None
        if isinstance(budget, DeviceBudget):  # rungs to evaluate and to draw from: the path's thirds
            self._places = [len(path) * third // 3 - (third == 3) for third in range(4)]
        else:
            priced = attrgetter({"parameters": "parameters", "flops": "forward_flops"}[budget.of])
            self._places = [_largest_within(share, path, lambda s: priced(price(s))) for share in budget.shares]

    def place(self, client: int) -> int:
        """Where on the path the largest sub-model within a client's budget is; every budget is as likely.

        By device it is the largest that fits; where not even the smallest does, that (the client will sit out).
        """
        if fits := self._fits:
            return max(0, bisect_left(self.path, True, key=lambda selection: not fits(client, selection)) - 1)
        return self._places[generator(self._seed, "budget", client).integers(len(self._places))]

    def of(self, client: int) -> Selection:
        """The largest sub-model within a client's budget."""
        return self.path[self.place(client)]

    def ladder(self) -> list[Selection]:
        """The full model, and the sub-model of each budget, largest first."""
        places = sorted({*self._places} - {len(self.path) - 1}, reverse=True)
        return [FULL, *(self.path[place] for place in places)]

    def within(self, client: int) -> list[Selection]:
        """The sub-models of all budgets that are no larger than a client's, smallest first."""
        own = self.place(client)
        return [self.path[place] for place in sorted({*self._places, own}) if place <= own]


class Budgeted(Method):
    """A method whose clients hold what their budget allows of one path."""

    def __init__(self, layout: ModelLayout, seed: int, price: Price, settings: Any, fits: Fits | None = None) -> None:
        super().__init__(layout, seed, price, settings, fits)
        self.budgets = Budgets(settings.budget, self.path(), price, seed, fits)

    @abstractmethod
    def path(self) -> Sequence[Selection]:
        """Sub-models, the smallest first and each within the next, up to the full one."""

    def selections(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        return [self.budgets.of(client) for client in cohort]

    def ladder(self) -> list[Selection]:
        return self.budgets.ladder()


def equal_widths(layout: ModelLayout, axes: Sequence[str]) -> list[Selection]:
    """The path on which every dimension of the given axes keeps the same share of its size, at least one."""
    dimensions = [dimension for axis in axes for entry in axes_of(layout, axis, "method.axes") for dimension in entry]
    path: list[Selection] = []
    for step in range(1, _STEPS + 1):
        sizes = {dimension: max(1, layout.sizes[dimension] * step // _STEPS) for dimension in dimensions}
        selection: Selection = {dimension: size for dimension, size in sizes.items() if size < layout.sizes[dimension]}
        if not path or selection != path[-1]:
            path.append(selection)
    return path


def _largest_within(share: float, path: Sequence[Selection], price: Callable[[Selection], float]) -> int:
    """Where on a path the largest sub-model is that costs at most ``share`` times the full model.

    Raises UserMistake if even the smallest costs more.
    """
    fitting = bisect_right(path, share * price(FULL), key=price)
    if fitting == 0:
        smallest = price(path[0]) / price(FULL)
        raise UserMistake(f"method.budget.shares: {share} is below the smallest sub-model, which is {smallest:.3f}")
    return fitting - 1
