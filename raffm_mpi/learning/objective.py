"""What a step of local training minimises: the batch's loss, a proximal term, the losses of nested sub-models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raffm_mpi.elastic.labels import Selection, within
from raffm_mpi.elastic.submodel import Shell
from raffm_mpi.elastic.table import ModelLayout

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Nested:
    """Sub-models within a client's own that it trains: prefixes, as selections of the full model.

    A step trains each of ``always``, one of ``drawn`` (every one as likely) and, where ``own``, all that the client
    holds. ``distillation`` is the share of the smaller ones' loss that is the divergence from the outputs of the whole.
    """

    always: tuple[Selection, ...] = ()
    drawn: tuple[Selection, ...] = ()
    own: bool = True
    distillation: float = 0.0
    temperature: float = 1.0

    def trained(self, own: Selection) -> Iterable[tuple[Selection, float]]:
        """What a step trains, with how often it does on average."""
        yield from ((selection, 1.0) for selection in self.always)
        yield from ((selection, 1 / len(self.drawn)) for selection in self.drawn)
        if self.own:
            yield own, 1.0


class Objective:
    """The loss of the model on a batch; with ``proximal`` above 0 also FedProx's term (Li et al., 2020).

    That is mu/2 |w - w_received|^2, whose gradient is added. ``received`` is what the client got, by parameter; where
    that is less dense than the model, ``kept`` says which entries it holds: the others have no gradient.
    """

    def __init__(
        self,
        received: Mapping[str, Tensor] | None = None,
        kept: Mapping[str, Tensor] | None = None,
        proximal: float = 0.0,
    ) -> None:
        self._received = received or {}
        self._kept = kept or {}
        self._proximal = proximal

    def start_step(self) -> None:
        """Another batch."""

    def backward(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        """Add ``share`` of the gradients of the loss to those of the parameters, and return the loss."""
        loss: Tensor = model(**batch).loss
        _scaled(loss, share).backward()
        return loss.detach()

    def finish_step(self, model: nn.Module) -> None:
        """Add what depends on the parameters alone, and drop what the client does not hold."""
        if not self._proximal and not self._kept:
            return
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                if self._proximal and name in self._received:
                    parameter.grad.add_(parameter.detach() - self._received[name], alpha=self._proximal)
                if name in self._kept:
                    parameter.grad.mul_(self._kept[name])


class NestedObjective(Objective):
    """The losses of sub-models within the client's; their gradients go back to where their parameters come from."""

    def __init__(
        self,
        nested: Nested,
        shell: Shell,
        layout: ModelLayout,
        own: Selection,
        draws: np.random.Generator,
        **options: Mapping[str, Tensor] | float | None,
    ) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._nested = nested
        self._shell = shell
        self._layout = layout  # of what the client holds
        self._draws = draws
        self._always = [within(own, selection) for selection in nested.always]
        self._drawn = [within(own, selection) for selection in nested.drawn]
        self._step: list[Selection] = []

    def start_step(self) -> None:
        drawn = [self._drawn[self._draws.integers(len(self._drawn))]] if self._drawn else []
        self._step = [*self._always, *drawn]

    def backward(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        taught, losses = None, []
        if self._nested.own:
            outputs = model(**batch)
            _scaled(outputs.loss, share).backward()
            taught = outputs.logits.detach()
            losses.append(outputs.loss.detach())
        losses += [self._backward_within(model, selection, batch, share, taught) for selection in self._step]
        first: Tensor = losses[0]
        return first

    def _backward_within(
        self, model: nn.Module, selection: Selection, batch: Batch, share: float, taught: Tensor | None
    ) -> Tensor:
        parameters = dict(model.named_parameters())
        values = {name: parameter.detach() for name, parameter in parameters.items()}
        sub = self._shell.fill(self._layout.restrict(selection), self._layout.take(values, selection))
        sub.train()
        outputs = sub(**batch)
        loss = outputs.loss
        if taught is not None and self._nested.distillation:
            alpha = self._nested.distillation
            loss = (1 - alpha) * loss + alpha * divergence(outputs.logits, taught, self._nested.temperature)
        _scaled(loss, share).backward()
        for name, parameter in sub.named_parameters():
            if parameter.grad is not None:
                whole = parameters[name]
                whole.grad = torch.zeros_like(whole) if whole.grad is None else whole.grad
                self._layout.put_add({name: whole.grad}, selection, {name: parameter.grad})
        own: Tensor = outputs.loss
        return own.detach()


def divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Hinton's distillation loss (2015): T^2 KL(softmax(taught / T) | softmax(logits / T)), the batch's mean."""
    log_probabilities = functional.log_softmax(logits / temperature, dim=-1)
    wanted = functional.log_softmax(taught / temperature, dim=-1)
    return temperature**2 * functional.kl_div(log_probabilities, wanted, reduction="batchmean", log_target=True)


def _scaled(loss: Tensor, share: float) -> Tensor:
    return loss if share == 1 else loss * share
