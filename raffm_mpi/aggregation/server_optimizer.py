"""Server optimisers: the server's step on the pseudo-gradient, which is minus the round's mean update.

FedAvgM is of Hsu, Qi and Brown (2019, arXiv 1909.06335); FedAdagrad, FedAdam and FedYogi are of Reddi et al. (2021,
arXiv 2003.00295, Algorithm 2). With the mean update D, of each entry:

    FedAvgM     m = momentum m + D               x += learning_rate m
    FedAdagrad  v = v + D^2                      x += learning_rate D / (sqrt(v) + tau)
    FedAdam     m = beta1 m + (1 - beta1) D,     v = beta2 v + (1 - beta2) D^2
    FedYogi     m as FedAdam,                    v = v - (1 - beta2) D^2 sign(v - D^2)
                both:                            x += learning_rate m / (sqrt(v) + tau)

The steps are torch's (SGD, Adagrad, Adam; Yogi, which torch does not have, is written here), with tau as its ``eps``;
they descend on -D, so their m has the other sign. Otherwise than the paper, torch's Adam begins with v = 0 and corrects
the bias of m and v by 1 - beta^step. FedAdagrad has no m, as in the paper's experiments (beta1 = 0). FedAdagrad and
FedYogi begin with v = tau^2, the paper's least.

An entry that no trained client held this round keeps its value and its m and v, bit for bit. The ``step`` of the bias
correction is a tensor's, as in torch: it counts the rounds in which some client held an entry of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from raffm_mpi.config import ServerSettings
from raffm_mpi.elastic.labels import Layout, Selection, Tensors
from raffm_mpi.elastic.packing import Packed, allocate, pack
from raffm_mpi.errors import UserMistake

_STEP = "step"


class MeanUpdate(NamedTuple):
    """The mean update of some rows of a tensor (float64), and their coverage, which broadcasts against it."""

    rows: slice
    update: Tensor
    held: Tensor


class ServerOptimizer(ABC):
    """What the server does with the mean update, and the state that it keeps for it, in the model's order.

    ``initial`` has the slots of the state: a float32 tensor for each of the model's, of its shape on the CPU, filled
    with the value that is given. Rank 0 alone has one.
    """

    def __init__(self, layout: Layout, initial: Mapping[str, float]) -> None:
        self.layout = layout
        self._slots = {slot: _filled(layout, value) for slot, value in initial.items()}
        self.num_steps: Tensors = {name: torch.zeros(()) for name in layout.labels} if initial else {}

    @property
    def slots(self) -> list[Tensors]:
        """The tensors of each slot, by the names of the model's."""
        return [packed.tensors for packed in self._slots.values()]

    @abstractmethod
    def step(self, name: str, entries: Sequence[Tensor], means: Iterable[MeanUpdate]) -> None:
        """Step in place on one tensor of the model, called once a round for each.

        ``entries`` are the tensor and what each slot has for it, cut to the envelope: contiguous float32, all of one
        shape. ``means`` yields the mean update of one block of rows after another, and must be read to its end. Entries
        that nobody held (``held`` is 0) must keep their bits.
        """

    def reorder(self, order: Selection) -> None:
        """Permute the state as the model is permuted; ``order`` is a checked selection of all indices."""
        for slot, packed in self._slots.items():
            self._slots[slot] = pack(self.layout, self.layout.take(packed.tensors, order))

    def state(self) -> Tensors:
        """All of the state, for :meth:`restore`; empty where there is none."""
        slots = {slot: packed.tensors for slot, packed in self._slots.items()} | {_STEP: self.num_steps}
        return {f"{slot}.{name}": tensor for slot, tensors in slots.items() for name, tensor in tensors.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with a state; raises UserMistake for that of another optimizer or model."""
        own = self.state()
        if own.keys() != state.keys():
            name = min(own.keys() ^ state.keys())
            which = "lacks" if name in own else "has"
            raise UserMistake(
                f"server.optimizer: the saved state {which} '{name}': it is of another optimizer or model"
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])


class AddMean(ServerOptimizer):
    """No optimizer: the mean update is added, rounded once."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout, {})

    def step(self, name: str, entries: Sequence[Tensor], means: Iterable[MeanUpdate]) -> None:
        (values,) = entries
        for rows, update, _ in means:
            # Not values + update everywhere: that would turn the -0.0 of an entry that nobody changed into 0.0.
            values[rows] = torch.where(update == 0, values[rows], (values[rows] + update).float())


class Descent(ServerOptimizer):
    """A step of torch's on the pseudo-gradient."""

    @abstractmethod
    def descend(self, values: Tensor, gradient: Tensor, slots: Sequence[Tensor], num_steps: Tensor) -> None:
        """One step in place on some entries (float32) and their slots, elementwise; ``num_steps`` were taken before."""

    def step(self, name: str, entries: Sequence[Tensor], means: Iterable[MeanUpdate]) -> None:
        is_held = False
        for rows, update, held in means:
            covered = held > 0
            is_held |= bool(covered.any())
            before = [entry[rows] for entry in entries]
            values, *slots = [entry.clone() for entry in before]
            self.descend(values, update.neg().float(), slots, self.num_steps[name].clone())
            for entry, after in zip(before, (values, *slots), strict=True):
                # What did not change keeps its bits, -0.0 too.
                entry.copy_(torch.where(covered & (after != entry), after, entry))
        self.num_steps[name] += is_held


class FedAvgM(Descent):
    """Momentum on the server (Hsu et al., 2019): torch's SGD."""

    def __init__(self, layout: Layout, *, learning_rate: float, momentum: float) -> None:
        super().__init__(layout, {"momentum_buffer": 0.0})
        self.learning_rate = learning_rate
        self.momentum = momentum

    def descend(self, values: Tensor, gradient: Tensor, slots: Sequence[Tensor], num_steps: Tensor) -> None:
        sgd(
            [values],
            [gradient],
            list(slots),
            foreach=False,
            lr=self.learning_rate,
            momentum=self.momentum,
            dampening=0.0,
            nesterov=False,
            weight_decay=0.0,
            maximize=False,
        )


class FedAdagrad(Descent):
    """Adagrad on the server (Reddi et al., 2021, with beta1 = 0): torch's."""

    def __init__(self, layout: Layout, *, learning_rate: float, tau: float) -> None:
        super().__init__(layout, {"sum": tau**2})
        self.learning_rate = learning_rate
        self.tau = tau

    def descend(self, values: Tensor, gradient: Tensor, slots: Sequence[Tensor], num_steps: Tensor) -> None:
        adagrad(
            [values],
            [gradient],
            list(slots),
            [num_steps],
            foreach=False,
            lr=self.learning_rate,
            eps=self.tau,
            lr_decay=0.0,
            weight_decay=0.0,
            maximize=False,
        )


class _TwoMoments(Descent):
    """An optimizer with the moments m (``exp_avg``) and v (``exp_avg_sq``) of torch's Adam."""

    first_square: ClassVar[float]  # what v begins with, in units of tau^2

    def __init__(self, layout: Layout, *, learning_rate: float, beta1: float, beta2: float, tau: float) -> None:
        super().__init__(layout, {"exp_avg": 0.0, "exp_avg_sq": self.first_square * tau**2})
        self.learning_rate = learning_rate
        self.beta1 = beta1
        self.beta2 = beta2
        self.tau = tau


class FedAdam(_TwoMoments):
    """Adam on the server (Reddi et al., 2021): torch's, with its bias correction."""

    first_square = 0.0

    def descend(self, values: Tensor, gradient: Tensor, slots: Sequence[Tensor], num_steps: Tensor) -> None:
        mean, square = slots
        adam(
            [values],
            [gradient],
            [mean],
            [square],
            [],
            [num_steps],
            foreach=False,
            lr=self.learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.tau,
            amsgrad=False,
            weight_decay=0.0,
            maximize=False,
        )


class FedYogi(_TwoMoments):
    """Yogi on the server (Reddi et al., 2021): v moves towards the squared update by a step that v does not scale."""

    first_square = 1.0

    def descend(self, values: Tensor, gradient: Tensor, slots: Sequence[Tensor], num_steps: Tensor) -> None:
        mean, square = slots
        new = gradient.square()
        mean.lerp_(gradient, 1 - self.beta1)
        square.addcmul_(new, (square - new).sign_(), value=self.beta2 - 1)
        values.addcdiv_(mean, square.sqrt().add_(self.tau), value=-self.learning_rate)


_OPTIMIZERS: dict[str, Callable[..., Descent]] = {
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}


def make_server_optimizer(settings: ServerSettings, layout: Layout) -> ServerOptimizer:
    """The optimizer that the settings describe, with fresh state for a model of that layout."""
    chosen = _OPTIMIZERS.get(settings.optimizer)
    return chosen(layout, **settings.numbers) if chosen else AddMean(layout)


def _filled(layout: Layout, value: float) -> Packed:
    packed = allocate(layout)
    for tensor in packed.tensors.values():
        tensor.fill_(value)
    return packed
