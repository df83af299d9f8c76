"""``RaFFM`` and ``RaPEFT``, the official project's classes (Yu, Muñoz, Jannesari, 2023): one process, no MPI."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from raffm_mpi.aggregation.exact import ExactSum, apply_update, flaw
from raffm_mpi.api.adapters import load_adapted, save_adapted
from raffm_mpi.api.spaces import ArcConfig, default_config, load_elastic_config, read_arc, read_space, write_arc
from raffm_mpi.api.submodels import ORDER, SUBMODEL, cut
from raffm_mpi.elastic.adapters import is_adapted, resize_wrappers, whole_layout
from raffm_mpi.elastic.labels import Selection, Tensors, union, within
from raffm_mpi.elastic.salience import order, paper_dimensions
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake
from raffm_mpi.seeds import generator

Metric = Callable[[Tensor], Tensor]


class RaFFM:
    """A transformers model from which sub-models of many sizes are cut, trained apart and averaged back.

    ``elastic_config`` (a dict, or the path of a JSON file) is the space of widths, as :mod:`raffm_mpi.api.spaces`
    describes it; left out, it is taken from ``model.config.elastic_config``, else a default that suits the model. It is
    kept there, so that checkpoints carry it. The model is not copied: ``raffm.model`` is the one given. Sampling
    without a seed draws from a generator seeded by ``seed`` here, never by the clock.

    Raises UserMistake for a model family without a table and for a space that does not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        elastic_config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if not hasattr(model, "config"):
            raise UserMistake(f"model: expected a transformers model, got {type(model).__name__}, which has no config")
        self.model: Any = model
        self._generator = generator(seed, "widths")
        self._bind(elastic_config)

    def _bind(self, elastic_config: Mapping[str, Any] | str | os.PathLike[str] | None) -> None:
        if hasattr(self.model.config, SUBMODEL):
            raise UserMistake("model: this is a sub-model, whose widths are cut already; give the full model")
        self.layout: ModelLayout = whole_layout(self.model)
        source = elastic_config or getattr(self.model.config, "elastic_config", None) or default_config(self.layout)
        self.elastic_config = load_elastic_config(source)
        self._space = read_space(self.elastic_config, self.layout)
        self.model.config.elastic_config = self.elastic_config

    @property
    def total_params(self) -> float:
        """The model's trainable parameters in millions, biases and embeddings included; tied ones count once."""
        return _num_trained(self.model) / 1e6

    def random_resource_aware_model(self, seed: int | None = None) -> tuple[nn.Module, float, ArcConfig]:
        """A sub-model with every width drawn uniformly: the sub-model, its parameters in millions, its arc config."""
        drawn = self._space.random(self._generator if seed is None else generator(seed, "widths"))
        return self._described(drawn)

    def sample_smallest_model(self) -> tuple[nn.Module, float, ArcConfig]:
        """The sub-model with every width at its smallest, as :meth:`random_resource_aware_model` returns it."""
        return self._described(self._space.smallest())

    def resource_aware_model(self, arc_config: Mapping[str, Mapping[str, Any]]) -> tuple[nn.Module, float, ArcConfig]:
        """The sub-model of an arc config, as :meth:`random_resource_aware_model` returns it, with every width named.

        What the arc config leaves out stays full. Raises UserMistake for widths that the model does not have.
        """
        return self._described(read_arc(arc_config, self.layout))

    def salient_parameter_prioritization(self, metric: str | Metric = "l1") -> None:
        """Put the most salient indices of each dimension first, in place; the model computes what it did before.

        ``"l1"`` orders every dimension by mean magnitude; ``"paper"`` only the query and key rows of each head, as the
        official code does; a function gives each entry of a matrix its salience (``torch.square``: by mean square).
        Sub-models cut before no longer fit the model afterwards, and :meth:`aggregate` refuses them. Raises UserMistake
        for an unknown metric, for a function whose result has another shape than the matrix, and for ``"paper"`` where
        the family's queries and keys cannot be ordered.
        """
        if not callable(metric) and metric not in ("l1", "paper"):
            raise UserMistake(f"metric: {metric!r} is unknown; known: 'l1', 'paper', or a function of a tensor")
        tensors = self._tensors(self.layout)
        dimensions = paper_dimensions(self.layout, "metric") if metric == "paper" else list(self.layout.sizes)
        permutation = order(_scored(tensors, metric) if callable(metric) else tensors, self.layout, dimensions)
        reordered = self.layout.take(tensors, permutation)
        for name, tensor in tensors.items():
            tensor.copy_(reordered[name])
        setattr(self.model.config, ORDER, _fingerprint(getattr(self.model.config, ORDER, ""), permutation))

    def aggregate(self, local_models: Sequence[nn.Module], weights: Sequence[int] | None = None) -> None:
        """Average trained sub-models into the model, each entry over the sub-models that hold it.

        ``local_models`` are sub-models of this model or copies of it; ``weights`` their numbers of examples (all alike
        if left out). Entries that no sub-model holds keep their bits. The sum is exact
        (:mod:`raffm_mpi.aggregation.exact`), so the order of the sub-models does not show. Raises UserMistake naming
        the sub-model that does not fit.
        """
        weights = _checked_weights(weights, len(local_models))
        layout = self._averaged()
        selections = [self._selection_of(local, number) for number, local in enumerate(local_models)]
        envelope = union(layout, selections)
        total = ExactSum.zeros(layout.restrict(envelope), sum(weights))
        tensors = {name: tensor.float().cpu() for name, tensor in self._tensors(layout).items()}
        for number, (local, selection) in enumerate(zip(local_models, selections, strict=True)):
            update = _update(local, number, layout.take(tensors, selection))
            total.add(within(envelope, selection), update, weights[number])
        apply_update(tensors, layout, total, envelope, selections, weights)
        for name, tensor in self._tensors(layout).items():
            tensor.copy_(tensors[name])

    def save_ckpt(self, dir: str | os.PathLike[str]) -> None:  # noqa: A002 (the official name)
        """Write the model with its elastic config to a folder: config.json and safetensors, never a pickle."""
        if is_adapted(self.model):
            save_adapted(self.model, Path(dir))
        else:
            self.model.save_pretrained(str(dir))

    def load_ckpt(self, dir: str | os.PathLike[str]) -> None:  # noqa: A002 (the official name)
        """Read what :meth:`save_ckpt` wrote; UserMistake for a folder without safetensors or elastic config."""
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(str(dir), local_files_only=True)
            if getattr(config, "elastic_config", None) is None:
                raise UserMistake("its config.json has no elastic_config")
            if is_adapted(self.model):
                load_adapted(self.model, Path(dir))
                setattr(self.model.config, ORDER, getattr(config, ORDER, ""))
            else:
                self.model = type(self.model).from_pretrained(str(dir), use_safetensors=True, local_files_only=True)
        except (OSError, ValueError, UserMistake) as error:
            raise UserMistake(f"load_ckpt: '{dir}' is no checkpoint: {str(error).splitlines()[0]}") from None
        self._bind(config.elastic_config)

    def _described(self, selection: Selection) -> tuple[nn.Module, float, ArcConfig]:
        sub = cut(self.model, self.layout, selection)
        if is_adapted(sub):
            resize_wrappers(sub)
        return sub, _num_trained(sub) / 1e6, write_arc(selection, self.layout)

    def _averaged(self) -> ModelLayout:
        """The layout of what :meth:`aggregate` averages."""
        return self.layout

    def _tensors(self, layout: ModelLayout) -> Tensors:
        return {name: p.detach() for name, p in self.model.named_parameters() if name in layout.labels}

    def _selection_of(self, local: Any, number: int) -> Selection:
        """What a local model holds, from its config: everything if it is a copy of the model."""
        config = getattr(local, "config", None)
        known = getattr(config, SUBMODEL, {"selection": {}})
        selection = cast(Selection, known["selection"])
        if getattr(config, ORDER, "") != getattr(self.model.config, ORDER, ""):
            raise UserMistake(f"local model {number} was cut from another order of the model's rows than it has now")
        try:
            self.layout.check(selection)
        except UserMistake as error:
            raise UserMistake(f"local model {number} is no sub-model of this model: {error}") from None
        found = {name: tuple(parameter.shape) for name, parameter in local.named_parameters()}
        for name in self.layout.labels:
            wanted = self.layout.shape(name, selection)
            if found.get(name) != wanted:
                raise UserMistake(f"local model {number}: '{name}' has shape {found.get(name)}, expected {wanted}")
        return selection


class RaPEFT(RaFFM):
    """:class:`RaFFM` for a model with LoRA adapters of ``peft``: sub-models cut both, clients train and send adapters.

    The base stays frozen; :meth:`aggregate` averages what is trainable (adapters, and heads in ``modules_to_save``).
    Adapters on linear layers are known. Ranks are not cut. Sub-models live in memory: :func:`load_submodel` does not
    read them back.
    """

    def __init__(
        self,
        model: nn.Module,
        elastic_config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        peft_config: Any = None,
        *,
        seed: int = 0,
    ) -> None:
        if not is_adapted(model):
            raise UserMistake(
                f"model: {type(model).__name__} has no adapters; pip install peft, then give RaPEFT "
                "peft.get_peft_model(model, peft.LoraConfig(...))"
            )
        super().__init__(model, elastic_config, seed=seed)
        self.peft_config = peft_config or self.model.peft_config[self.model.active_adapter]

    def random_peft_model(self, seed: int | None = None) -> tuple[nn.Module, int, ArcConfig]:
        """A sub-model with every width drawn uniformly, its number of trainable parameters, and its arc config."""
        sub, _, arc = self.random_resource_aware_model(seed)
        return sub, _num_trained(sub), arc

    def smallest_peft_model(self) -> tuple[nn.Module, int, ArcConfig]:
        """The sub-model with every width at its smallest, as :meth:`random_peft_model` returns it."""
        sub, _, arc = self.sample_smallest_model()
        return sub, _num_trained(sub), arc

    def resource_aware_peft_model(
        self, arc_config: Mapping[str, Mapping[str, Any]]
    ) -> tuple[nn.Module, int, ArcConfig]:
        """The sub-model of an arc config, as :meth:`random_peft_model` returns it."""
        sub, _, arc = self.resource_aware_model(arc_config)
        return sub, _num_trained(sub), arc

    def _averaged(self) -> ModelLayout:
        return self.layout.part([name for name, p in self.model.named_parameters() if p.requires_grad])


def _num_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _scored(tensors: Tensors, metric: Metric) -> Tensors:
    """The salience of each entry of each matrix; the rest as it is, for it is not looked at."""
    scores = {name: metric(tensor) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    for name, score in scores.items():
        if not isinstance(score, Tensor) or score.shape != tensors[name].shape:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise UserMistake(
                f"metric: gave {got} for '{name}' of shape {tuple(tensors[name].shape)}; must be as large"
            )
    return scores


def _fingerprint(before: str, permutation: Selection) -> str:
    digest = hashlib.sha256(before.encode())
    for dimension, index in permutation.items():
        digest.update(dimension.encode() + cast(Tensor, index).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _checked_weights(weights: Sequence[int] | None, num_models: int) -> list[int]:
    if not num_models:
        raise UserMistake("local_models is empty; aggregate needs at least one")
    weights = [1] * num_models if weights is None else list(weights)
    if len(weights) != num_models:
        raise UserMistake(f"weights: {len(weights)} for {num_models} local models")
    try:
        whole = [operator.index(weight) for weight in weights]
    except TypeError:
        whole = [0]
    if min(whole) < 1:
        raise UserMistake(f"weights: {weights} must be whole numbers of examples, from 1")
    return whole


def _update(local: nn.Module, number: int, received: Tensors) -> Tensors:
    """Trained minus received, in float32 on the CPU; UserMistake if it cannot be aggregated."""
    trained = {name: parameter.detach() for name, parameter in local.named_parameters()}
    update = {name: torch.sub(trained[name].float().cpu(), tensor).contiguous() for name, tensor in received.items()}
    if problem := flaw(update):
        raise UserMistake(f"local model {number}: {problem}")
    return update
