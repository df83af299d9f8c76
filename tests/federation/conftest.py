"""A small image and a small text federation, with data made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from support import tiny


@pytest.fixture(scope="session")
def federations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vit.yaml and bert.yaml: two rounds of six of twelve clients."""
    folder = tmp_path_factory.mktemp("federations")
    tiny.write_sentences(folder / "sentences")
    tiny.write_tokenizer(folder / "tokenizer")
    common = {
        "federation": {"num_clients": 12, "participation": 0.5, "num_rounds": 2},
        "method": {"name": "raffm", "space": {"ffn": [0.25, 0.5, 1.0], "heads": [1, 2, 3], "head_width": [4, 8]}},
    }
    cache = {"cache": str(folder / "cache")}
    digits = {"path": "digits", "partition": {"kind": "dirichlet", "alpha": 0.5}, **cache}
    text = {"path": str(folder / "sentences"), "tokenizer": str(folder / "tokenizer"), "max_length": 16, **cache}
    for name, model, data, batch_size in (("vit", tiny.VIT, digits, 24), ("bert", tiny.BERT, text, 8)):
        settings = {
            "output": str(folder / name),
            "model": {"family": name, "config": model},
            "data": data,
            "training": {"batch_size": batch_size, "learning_rate": 1.0e-3, "max_grad_norm": 1.0},
            **common,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return folder


# Each family in a task of its own kind, and each task at least once: name -> (family, config, data).
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "vit": ("vit", tiny.VIT, "digits"),
    "deit": ("deit", tiny.VIT, "digits"),
    "dinov2": ("dinov2", tiny.DINOV2, "digits"),
    "clip": ("clip", tiny.CLIP, "digits"),
    "sam": ("sam_vision_model", tiny.SAM, "digits"),
    "bert": ("bert", tiny.BERT, "pairs"),
    "roberta": ("roberta", tiny.BERT, "numbers"),
    "distilbert": ("distilbert", tiny.DISTILBERT, "sentences"),
    "bert-questions": ("bert", tiny.BERT, "questions"),
    "t5": ("t5", tiny.T5, "translations"),
    "t5-gated": ("t5", {**tiny.T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, "translations"),
    "llama": ("llama", tiny.LLAMA, "text"),
    "llama-sentences": ("llama", {**tiny.LLAMA, "pad_token_id": None}, "sentences"),
    "mistral": ("mistral", tiny.LLAMA, "text"),
    "qwen2": ("qwen2", tiny.QWEN2, "text"),
    "qwen3": ("qwen3", tiny.LLAMA, "text"),
    "gpt2": ("gpt2", tiny.GPT2, "text"),
    "opt": ("opt", tiny.OPT, "text"),
}


@pytest.fixture(scope="session")
def family_configs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A config of two rounds of raffm for every family and task."""
    folder = tmp_path_factory.mktemp("families")
    tiny.write_tokenizer(folder / "tokenizer")
    data = tiny.write_tasks(folder / "data")
    configs = []
    for name, (family, config, kind) in FAMILIES.items():
        settings = {
            "output": str(folder / name),
            "model": {"family": family, "config": config},
            "data": {**data[kind], "cache": str(folder / "cache")},
            "federation": {"num_clients": 8, "participation": 0.5, "num_rounds": 2},
            "method": {"name": "raffm", "space": {"ffn": [0.25, 0.5, 1.0], "residual": [16, 24]}},
            "training": {"batch_size": 8, "learning_rate": 1.0e-3},
        }
        if kind != "digits":
            settings["data"]["tokenizer"] = str(folder / "tokenizer")
        configs.append(folder / f"{name}.yaml")
        configs[-1].write_text(yaml.safe_dump(settings))
    return configs
