"""A small image and a small text federation, with data made here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from federation import TINY_VIT

sys.path.insert(0, str(Path(__file__).parent))

WORDS = [
    "good",
    "great",
    "fine",
    "nice",
    "bad",
    "poor",
    "dull",
    "sad",
    "film",
    "plot",
    "cast",
    "the",
    "a",
    "is",
    "very",
]

BERT = {
    "family": "bert",
    "config": {
        "vocab_size": 24,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 48,
        "max_position_embeddings": 32,
    },
}


def write_sentences(folder: Path) -> None:
    """Sentences whose class is that of the one adjective in them."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, count in (("train", 240), ("test", 60)):
        labels = generator.integers(0, 2, count)
        filler = [" ".join(generator.choice(WORDS[8:], generator.integers(2, 9))) for _ in labels]
        texts = [f"{text} {WORDS[generator.integers(4) + 4 * (1 - y)]}" for text, y in zip(filler, labels, strict=True)]
        pd.DataFrame({"sentence": texts, "label": labels}).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def write_tokenizer(folder: Path) -> None:
    """A BERT tokenizer of these words, as transformers saves one."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@pytest.fixture(scope="session")
def federations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vit.yaml and bert.yaml: two rounds of six of twelve clients."""
    folder = tmp_path_factory.mktemp("federations")
    write_sentences(folder / "sentences")
    write_tokenizer(folder / "tokenizer")
    common = {
        "federation": {"num_clients": 12, "participation": 0.5, "num_rounds": 2},
        "method": {"name": "raffm", "space": {"ffn": [0.25, 0.5, 1.0], "heads": [1, 2, 3], "head_width": [4, 8]}},
        "training": {"batch_size": 8, "learning_rate": 1.0e-3, "max_grad_norm": 1.0},
    }
    cache = {"cache": str(folder / "cache")}
    digits = {"path": "digits", "partition": {"kind": "dirichlet", "alpha": 0.5}, **cache}
    text = {"path": str(folder / "sentences"), "tokenizer": str(folder / "tokenizer"), "max_length": 16, **cache}
    for name, model, data in (("vit", TINY_VIT, digits), ("bert", BERT, text)):
        settings = {"output": str(folder / name), "model": model, "data": data, **common}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return folder


SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
WORDED = {"vocab_size": 24, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
PIXELS = {"image_size": 8, "patch_size": 4, "num_channels": 1}
GROUPED = {**SMALL, **WORDED, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
OF_SAM = {
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "mlp_dim": 48,
    "output_channels": 8,
    "window_size": 3,
    "global_attn_indexes": [1],
}
OF_T5 = {"vocab_size": 24, "d_model": 24, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3, "eos_token_id": 3}
OF_GPT2 = {"vocab_size": 24, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_inner": 48}
OF_OPT = {**SMALL, **WORDED, "ffn_dim": 48, "word_embed_proj_dim": 24}
OF_DISTILBERT = {"vocab_size": 24, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 48}
OF_OPT.pop("intermediate_size")

# Each family in a task of its own kind, and each task at least once: name -> (family, config, data).
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "vit": ("vit", {**SMALL, **PIXELS}, "digits"),
    "deit": ("deit", {**SMALL, **PIXELS}, "digits"),
    "dinov2": (
        "dinov2",
        {**PIXELS, "mlp_ratio": 2, **{key: SMALL[key] for key in SMALL if key != "intermediate_size"}},
        "digits",
    ),
    "clip": ("clip", {"vision_config": {**SMALL, **PIXELS}, "text_config": SMALL, "projection_dim": 8}, "digits"),
    "sam": ("sam_vision_model", OF_SAM, "digits"),
    "bert": ("bert", {**SMALL, **WORDED}, "pairs"),
    "roberta": ("roberta", {**SMALL, **WORDED}, "numbers"),
    "distilbert": ("distilbert", OF_DISTILBERT, "sentences"),
    "bert-questions": ("bert", {**SMALL, **WORDED}, "questions"),
    "t5": ("t5", OF_T5, "translations"),
    "t5-gated": ("t5", {**OF_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, "translations"),
    "llama": ("llama", GROUPED, "text"),
    "llama-sentences": ("llama", {**GROUPED, "pad_token_id": None}, "sentences"),
    "mistral": ("mistral", GROUPED, "text"),
    "qwen2": ("qwen2", {key: GROUPED[key] for key in GROUPED if key != "head_dim"}, "text"),
    "qwen3": ("qwen3", GROUPED, "text"),
    "gpt2": ("gpt2", OF_GPT2, "text"),
    "opt": ("opt", OF_OPT, "text"),
}


def write_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """A small data set for each task, and the settings that read it."""
    generator = np.random.default_rng(1)
    settings: dict[str, dict[str, Any]] = {"digits": {"path": "digits", "task": "image_classification"}}

    def sentences(count: int) -> list[str]:
        return [" ".join(generator.choice(WORDS, generator.integers(4, 9))) for _ in range(count)]

    def questions(count: int) -> dict[str, Any]:
        contexts = sentences(count)
        answers = [generator.choice(context.split()) for context in contexts]
        found = [{"text": [a], "answer_start": [c.index(a)]} for a, c in zip(answers, contexts, strict=True)]
        found[0] = {"text": [], "answer_start": []}
        return {"question": [f"the {answer}" for answer in answers], "context": contexts, "answers": found}

    tables: dict[str, Callable[[int], dict[str, Any]]] = {
        "sentences": lambda n: {"sentence": sentences(n), "label": generator.integers(0, 2, n)},
        "pairs": lambda n: {"first": sentences(n), "second": sentences(n), "label": generator.integers(0, 3, n)},
        "numbers": lambda n: {"first": sentences(n), "second": sentences(n), "label": generator.random(n)},
        "questions": questions,
        "translations": lambda n: {"source": sentences(n), "target": sentences(n)},
        "text": lambda n: {"text": sentences(n)},
    }
    for name, table in tables.items():
        (folder / name).mkdir(parents=True)
        for split, count in (("train", 96), ("test", 24)):
            pd.DataFrame(table(count)).to_parquet(folder / name / f"{split}-00000-of-00001.parquet")
        settings[name] = {"path": str(folder / name), "max_length": 16}
    settings["translations"]["columns"] = {"text": "source", "target": "target"}
    return settings


@pytest.fixture(scope="session")
def family_configs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A config of two rounds of raffm for every family and task."""
    folder = tmp_path_factory.mktemp("families")
    write_tokenizer(folder / "tokenizer")
    data = write_tasks(folder / "data")
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
