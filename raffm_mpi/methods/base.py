"""What a federated method decides; everything else of a round is shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from raffm_mpi.elastic.cost import Cost
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.learning.objective import Nested

Price = Callable[[Selection], Cost]  # the cost of a sub-model on an example of the data set
Fits = Callable[[int, Selection], bool]  # whether a client's device can hold a sub-model and have it ready in time


class Method(ABC):
    """A method chooses what each client of a cohort holds, and may reorder the model before a round.

    Every rank holds one and derives the same selections from it, so that none has to travel. Therefore whatever a hook
    returns must depend on its arguments, the layout, the seed and the settings alone: random numbers come from
    :func:`raffm_mpi.seeds.generator` with (seed, purpose, round, client), never from the clock, the rank or what was
    called before. ``settings`` are the method's own of the config (of a user's class ``settings.options``); ``price``
    counts a sub-model's parameters and FLOPs; ``fits`` is there if clients have devices.

    The hooks are called in this order: ``check`` and ``prepare`` before an example is read, the constructor and
    ``begin`` once at the start, ``order`` before the first round, and in each round ``selections``, ``nested``,
    ``rewrite`` and ``order``. All arguments are positional. A selection maps names of ``layout.all_sizes`` to what is
    kept: a whole number, or an int64 tensor of indices (:mod:`raffm_mpi.elastic.labels`).

    A UserMistake raised by ``check``, ``prepare`` or the constructor ends the run with its sentence and status 2. Any
    other error, and any error of a later hook, ends it as a fault with a traceback and status 1.
    """

    needs_update: bool = False  # whether :meth:`order` is to be given the last round's update

    def __init__(self, layout: ModelLayout, seed: int, price: Price, settings: Any, fits: Fits | None = None) -> None:
        self.layout = layout
        self.seed = seed
        self.price = price
        self.settings = settings
        self.fits = fits

    @classmethod
    def check(cls, settings: Any, layout: ModelLayout) -> None:
        """Refuse settings that a model contradicts: all that its structure alone can tell.

        Called once on rank 0, and by ``forecast``, before an example is prepared or a weight is read. ``layout`` is
        that of the prepared model. Raises UserMistake that names the setting, its value and what is allowed.
        """
        del settings, layout  # most have nothing to check

    @classmethod
    def prepare(cls, model: nn.Module) -> nn.Module:
        """The model that the method trains, made of a transformers model in place.

        Called on every rank with the loaded model (float32, on the CPU), and on rank 0 with the same model on torch's
        meta device, which has shapes and no values. The result must have a layout (:func:`whole_layout`), and the same
        bits on all ranks. Raises UserMistake for a model that the method cannot train.
        """
        return model

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Look at the model that the run begins with.

        Called once on every rank, on each start and each resume, with every parameter by name in full shape (float32,
        CPU, the same bits on all ranks). A forecast has no model to look at and does not call it. The tensors must not
        be changed.
        """
        del tensors

    def rewrite(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the global model in another way after a round, in place: the same function, up to rounding.

        Called once a round on rank 0 alone, after the aggregator and before :meth:`order`, with what travels of the
        model: by name, in full shape, float32 on the CPU. Shapes and dtypes must stay.
        """
        del tensors

    def order(self, tensors: Mapping[str, Tensor], update: Mapping[str, Tensor] | None = None) -> Selection:
        """The permutation to apply to the global model before the next round; empty for none.

        Called on rank 0 alone, before the first round and after each, with what travels of the model as in
        :meth:`rewrite`; with a frozen base instead once on every rank, with the frozen tensors. ``update`` is what the
        last round changed, in the same shapes, where ``needs_update`` is true and there was a round; else None. Returns
        for each dimension that is reordered an int64 tensor with all its indices: ``[size]``, or ``[outer, size]`` with
        an order for each index of the dimension left of it. An index outside the dimension is refused.
        """
        return FULL

    @abstractmethod
    def selections(self, round_number: int, cohort: Sequence[int]) -> list[Selection]:
        """What each client of the cohort holds in this round: one selection a client, in the cohort's order.

        Called on every rank, at least once a round and again where ranks have died; rounds count from 0, and ``cohort``
        has the numbers of clients. It must return the same whenever and wherever it is called with the same arguments.
        Clients that hold the same may share one selection object, which saves time when coverage is computed.
        """

    def nested(self, round_number: int, client: int, selection: Selection) -> Nested | None:
        """The sub-models of its own that a client trains with what it holds; None for none.

        Called on the rank that trains the client, and on every rank to count its FLOPs; must return the same on all.
        ``selection`` is the client's own, with the rank of its adapters. The returned selections are of the full model
        and prefixes (whole numbers), each within ``selection``.
        """
        return None

    def ladder(self) -> list[Selection]:
        """The sub-models worth evaluating, largest first; at least one.

        Called on every rank at every evaluation, and must return the same on all at all times: ranks agree on a
        sub-model by its place in this list.
        """
        return [FULL]
