"""A small image and a small text federation, with data made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

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

VIT = {
    "family": "vit",
    "config": {
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 48,
    },
}
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
    for name, model, data in (("vit", VIT, digits), ("bert", BERT, text)):
        settings = {"output": str(folder / name), "model": model, "data": data, **common}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return folder
