"""The global model: built from the settings, fingerprinted, saved."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from raffm_mpi.config import DataSettings, LoRASettings, ModelSettings
from raffm_mpi.data import DataInfo, ImageInput, TextInput
from raffm_mpi.elastic.adapters import heads_of, is_adapted, targets_of
from raffm_mpi.elastic.factors import is_factored, multiplied_out
from raffm_mpi.elastic.families import family_of, layout_of
from raffm_mpi.elastic.submodel import Shell, skeleton
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake
from raffm_mpi.seeds import torch_seed
from raffm_mpi.tasks import task_of


def load_config(settings: ModelSettings, info: DataInfo) -> Any:
    """The transformers config, with the data set's classes; no weight is read.

    Raises UserMistake for a model that cannot be found, a family without a table and unknown config keys.
    """
    from transformers import AutoConfig

    told = task_of(info.task).config(info)
    if settings.name is None:
        return _from_scratch(str(settings.family), settings.config, told)
    try:
        config = AutoConfig.from_pretrained(settings.name, **settings.config, **told)
    except (OSError, ValueError) as error:
        raise UserMistake(f"model.name: '{settings.name}' cannot be loaded: {str(error).splitlines()[0]}") from None
    family_of(config.model_type)
    return config


def model_structure(settings: ModelSettings, config: Any, info: DataInfo) -> nn.Module:
    """The model without any numbers, on torch's meta device: names and shapes alone.

    Raises UserMistake for a model that has no head for the task, and for adapters where it has no linear layer.
    """
    try:
        model = skeleton(partial(_build, info=info), config)
    except ValueError as error:
        raise UserMistake(
            f"model: family '{config.model_type}' has no head for {info.task}: {str(error).splitlines()[0]}"
        ) from None
    return model if settings.lora is None else _adapted(model, settings.lora, info)


def load_model(settings: ModelSettings, config: Any, info: DataInfo, seed: int, pad_token_id: int | None) -> nn.Module:
    """The model with pretrained weights, or random ones; what is new in it (a head, adapters) is made from the seed.

    A model that knows no padding (Llama, GPT-2) is told the data's ``pad_token_id``.
    """
    model = _load(settings, config, info, seed)
    told: Any = model.config
    if getattr(told, "pad_token_id", None) is None:
        told.pad_token_id = pad_token_id
    if getattr(told, "is_encoder_decoder", False) and getattr(told, "decoder_start_token_id", None) is None:
        told.decoder_start_token_id = told.pad_token_id
    told.use_cache = False
    if settings.lora is None:
        return model
    torch.manual_seed(torch_seed(seed, "adapters"))
    return _adapted(model, settings.lora, info)


def _adapted(model: nn.Module, settings: LoRASettings, info: DataInfo) -> nn.Module:
    """The model with LoRA adapters inside: A random, B zero; they and the task head are trained, the rest is frozen."""
    try:
        import peft
    except ImportError:
        raise UserMistake("model.lora needs peft, which is not installed: pip install peft") from None
    layout = layout_of(model)
    heads = heads_of(model, layout) if task_of(info.task).has_new_head else []
    try:
        targets = targets_of(layout, settings.targets, heads)
    except UserMistake as error:
        raise UserMistake(f"model.lora.targets: {error}") from None
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=targets,
        modules_to_save=heads or None,
        fan_in_fan_out=any(f"{path}.weight" in layout.transposed for path in targets),
    )
    return cast(nn.Module, peft.get_peft_model(cast(Any, model), config))


def _load(settings: ModelSettings, config: Any, info: DataInfo, seed: int) -> nn.Module:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    auto = _class_for(config, info)
    torch.manual_seed(torch_seed(seed, "model"))
    try:
        if settings.name is None:
            return _build(config, info)
        model, loaded = auto.from_pretrained(
            settings.name,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        source = settings.name or settings.family
        raise UserMistake(f"model: '{source}' cannot be built for {info.task}: {str(error).splitlines()[0]}") from None
    prefix = f"{model.base_model_prefix}."
    missing = sorted(key for key in loaded["missing_keys"] if key.startswith(prefix) and ".pooler." not in key)
    if missing:
        raise UserMistake(
            f"model.name: '{settings.name}' has no weights for {', '.join(missing[:3])} and others like it"
        )
    return cast(nn.Module, model)


def inputs_of(settings: ModelSettings, data: DataSettings, config: Any, info: DataInfo) -> ImageInput | TextInput:
    """How examples must be prepared for the model."""
    if not task_of(info.task).takes_images(info.columns):
        tokenizer = data.tokenizer or settings.name
        if tokenizer is None:
            raise UserMistake("data.tokenizer is missing: a model built by family has no tokenizer of its own")
        reserved = family_of(config.model_type).reserved_positions
        limit = getattr(config, "max_position_embeddings", data.max_length + reserved) - reserved
        if data.max_length > limit:
            raise UserMistake(f"data.max_length: {data.max_length} is more than the model's {limit} positions")
        return TextInput(tokenizer, data.max_length)
    config = getattr(config, "vision_config", config)
    if not hasattr(config, "image_size"):
        raise UserMistake(f"model family '{config.model_type}' does not take the images of data.path '{data.path}'")
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    mean, std = _normalisation(settings.name, config.num_channels)
    return ImageInput(config.num_channels, height, width, mean, std)


def sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes and float32 bytes of the parameters, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def save_model(
    folder: Path, shell: Shell, layout: ModelLayout, tensors: Mapping[str, Tensor], *, keeps_base: bool = True
) -> None:
    """Write the full model in the hub's format (config.json, model.safetensors).

    Of a model with adapters these and the task head are written, as ``peft`` does, with the config: they go with the
    base that the run began with. Where that was changed, the new base and the head are written, without adapters. A
    factorised model is multiplied out.
    """
    model: Any = shell.fill(layout, tensors)
    if is_adapted(model) and keeps_base:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        model.config.save_pretrained(folder)
        return
    if is_adapted(model):
        model = copy.deepcopy(model).unload()
    if is_factored(model):
        model = multiplied_out(model)
    model.save_pretrained(folder)


def _build(config: Any, info: DataInfo) -> nn.Module:
    model_class = _class_for(config, info)
    build = model_class.from_config if model_class.__name__.startswith("Auto") else model_class
    return cast(nn.Module, build(config))


def _class_for(config: Any, info: DataInfo) -> Any:
    """The auto class of a task's head; for encoders without one, ours."""
    import transformers

    from raffm_mpi.tasks.heads import OWN_HEADS

    head = task_of(info.task).head(info.columns)
    auto = getattr(transformers, f"AutoModelFor{head}")
    return OWN_HEADS[head] if head in OWN_HEADS and type(config) not in auto._model_mapping else auto


def _from_scratch(family: str, values: Mapping[str, Any], told: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    family_of(family)
    known = set(AutoConfig.for_model(family).to_dict())
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserMistake(
            f"model.config.{unknown[0]}: unknown key of family '{family}'; allowed: {', '.join(sorted(known))}"
        )
    try:
        config = AutoConfig.for_model(family, **values, **told)
    except Exception as error:  # transformers validates in many ways
        raise UserMistake(f"model.config: family '{family}' refuses it: {' '.join(str(error).split())}") from None
    config.architectures = config.architectures or []  # else the families that have several for a task are refused
    return config


def _normalisation(name: str | None, num_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel that a pretrained model expects; 0.5 where it says nothing."""
    from transformers.utils.hub import cached_file

    found = None
    if name is not None:
        found = cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    values = json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
    mean, std = (tuple(values.get(key) or [0.5] * num_channels) for key in ("image_mean", "image_std"))
    if len(mean) != num_channels or len(std) != num_channels:
        raise UserMistake(f"model.name: '{name}' normalises {len(mean)} channels, but its config has {num_channels}")
    return mean, std
