"""Local training of any transformers model on one processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raffm_mpi.config import ComputeSettings, SGDTraining, TrainingSettings
from raffm_mpi.data import Split, UnreadableExample
from raffm_mpi.errors import UserMistake
from raffm_mpi.learning.objective import Objective
from raffm_mpi.seeds import generator, torch_seed


@dataclass(frozen=True)
class Processor:
    """What a rank computes on, and in which precision."""

    device: torch.device
    precision: str = "fp32"

    @classmethod
    def select(cls, settings: ComputeSettings, index: int, *, only_serves: bool = False) -> Processor:
        """The node's GPU number ``index``, wrapping around, or the CPU; also sets the number of CPU threads.

        ``only_serves`` is said of a server that has client groups beside it. Raises UserMistake where the settings ask
        for what the machine does not have.
        """
        torch.set_num_threads(settings.threads_per_group)
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise UserMistake("compute.device: 'cuda' was asked for, but torch sees no GPU; allowed here: cpu, auto")
        use_gpu = settings.device != "cpu" and torch.cuda.is_available()
        if settings.precision == "bf16" and not use_gpu:
            raise UserMistake("compute.precision: 'bf16' needs a GPU; allowed on a CPU: fp32")
        if not use_gpu or (only_serves and settings.server_device == "cpu"):
            return cls(torch.device("cpu"))
        return cls(torch.device(f"cuda:{index % torch.cuda.device_count()}"), settings.precision)

    @property
    def is_gpu(self) -> bool:
        """Whether its memory is not the host's."""
        return self.device.type == "cuda"

    def move(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on this processor."""
        if not self.is_gpu:
            return batch
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def empty_cache(self) -> None:
        """Give back what torch's allocator of a GPU keeps for later."""
        if self.is_gpu:
            torch.cuda.empty_cache()

    def finish(self) -> None:
        """Wait for what was asked of a GPU, before another reads its memory."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(frozen=True)
class TrainingResult:
    """What one client's training came to; losses are of its batches, ``train_s`` is the steps alone."""

    num_steps: int
    first_loss: float
    last_loss: float
    mean_loss: float
    train_s: float


def num_steps(settings: TrainingSettings, num_examples: int) -> int:
    """Optimiser steps of one client in one round."""
    if settings.local_steps is not None:
        return settings.local_steps
    return (settings.local_epochs or 1) * -(-num_examples // settings.batch_size)


def examples_seen(settings: TrainingSettings, num_examples: int) -> int:
    """Examples that one client trains on in one round, repetitions counted."""
    if settings.local_steps is not None:
        return settings.local_steps * min(settings.batch_size, num_examples)
    return (settings.local_epochs or 1) * num_examples


def learning_rate(settings: TrainingSettings, round_number: int) -> float:
    """The learning rate of a round: the paper decays it by 0.98 every 5 rounds."""
    return settings.learning_rate * settings.learning_rate_decay ** (round_number // settings.decay_every_rounds)


class TrainingFault(Exception):
    """A client's training came to nothing; the message says why."""


def train(
    model: nn.Module,
    split: Split,
    indices: np.ndarray,
    settings: TrainingSettings,
    processor: Processor,
    *,
    seed: int,
    round_number: int,
    client: int,
    objective: Objective | None = None,
    micro_batches: int = 1,
    after_step: Callable[[], None] = lambda: None,
) -> TrainingResult:
    """Train a model in place on some examples of a split; all random numbers are keyed by seed, round and client.

    Each batch goes through the model in ``micro_batches`` parts, whose gradients add up to the batch's: the same mean,
    rounded otherwise. Raises TrainingFault where there is nothing to train on, a batch cannot be read, or a loss is not
    finite.
    """
    if not len(indices):
        raise TrainingFault("it has no examples")
    torch.manual_seed(torch_seed(seed, "training", round_number, client))
    order = generator(seed, "batches", round_number, client)
    objective = objective or Objective()
    optimizer = _optimizer(model, settings, learning_rate(settings, round_number))
    model.train()
    losses = []
    start = time.perf_counter()
    try:
        for rows in _batches(indices, settings, order):
            objective.start_step()
            losses.append(_backward(model, objective, split, rows, processor, micro_batches))
            objective.finish_step(model)
            if settings.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            after_step()
    finally:
        for parameter in model.parameters():
            parameter.grad = None
    values = torch.stack(losses).double().cpu()
    train_s = time.perf_counter() - start
    if not values.isfinite().all():
        step = int((~values.isfinite()).nonzero()[0])
        raise TrainingFault(f"its loss is {float(values[step]):g} at step {step + 1} of {len(values)}")
    return TrainingResult(len(losses), float(values[0]), float(values[-1]), float(values.mean()), train_s)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch or numpy says that memory ran out, on a GPU or on the host."""
    allocator = "not enough memory" in str(error) or "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (isinstance(error, RuntimeError) and allocator)


def _backward(
    model: nn.Module, objective: Objective, split: Split, rows: np.ndarray, processor: Processor, micro_batches: int
) -> Tensor:
    """Add the gradients of a batch's mean loss, in parts, and return that loss."""
    total = torch.zeros((), device=processor.device)
    for part in np.array_split(rows, min(micro_batches, len(rows))):
        try:
            batch = split.batch(part)
        except UnreadableExample as error:
            raise TrainingFault(str(error)) from error
        share = len(part) / len(rows)
        with processor.autocast():
            total += objective.backward(model, processor.move(batch), share) * share
    return total


def _optimizer(model: nn.Module, settings: TrainingSettings, rate: float) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if isinstance(settings, SGDTraining):
        return torch.optim.SGD(
            parameters, rate, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.AdamW(parameters, rate, weight_decay=settings.weight_decay, fused=True)


def _batches(indices: np.ndarray, settings: TrainingSettings, order: np.random.Generator) -> Iterator[np.ndarray]:
    remaining = num_steps(settings, len(indices))
    while remaining > 0:
        shuffled = order.permutation(indices)
        for start in range(0, len(shuffled), settings.batch_size)[:remaining]:
            yield shuffled[start : start + settings.batch_size]
            remaining -= 1
