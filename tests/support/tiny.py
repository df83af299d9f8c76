"""The tiny models, the words, the tokenizer and the small data sets of the tests.

Sizes are as small as they can be and still tell mistakes apart: head counts, head widths and layers differ from each
other, Llama's heads are grouped and wider together than the residual, T5's are narrower, and SAM's windows do not
divide its image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
IMAGES = {"image_size": 8, "patch_size": 4, "num_channels": 1}  # scikit-learn's digits
TEXT = {"vocab_size": 60, "max_position_embeddings": 32, "pad_token_id": 0}
ENDS = {"bos_token_id": 2, "eos_token_id": 3}  # [CLS] and [SEP] of the tokenizer below

VIT = {**SIZES, **IMAGES}
DINOV2 = {**{key: value for key, value in VIT.items() if key != "intermediate_size"}, "mlp_ratio": 2}
CLIP = {
    "vision_config": VIT,
    "text_config": {**SIZES, **TEXT, **ENDS, "hidden_size": 18},
    "projection_dim": 10,
}
SAM = {
    **IMAGES,
    "patch_size": 2,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "mlp_dim": 40,
    "output_channels": 7,
    "window_size": 3,
    "global_attn_indexes": [1],
}
BERT = {**SIZES, **TEXT}
DISTILBERT = {**TEXT, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40}
T5 = {
    "vocab_size": 60,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "eos_token_id": 3,
}
LLAMA = {**SIZES, **TEXT, **ENDS, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6}
QWEN2 = {key: value for key, value in LLAMA.items() if key != "head_dim"}
GPT2 = {
    "vocab_size": 60,
    "n_positions": 32,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "n_inner": 40,
    "pad_token_id": 0,
    **ENDS,
}
OPT = {
    **{key: value for key, value in SIZES.items() if key != "intermediate_size"},
    **TEXT,
    **ENDS,
    "ffn_dim": 40,
    "word_embed_proj_dim": 24,
}

# Of the words, the first four are of one class of the sentences, the next four of the other.
WORDS = ("good", "great", "fine", "nice", "bad", "poor", "dull", "sad")
WORDS += ("film", "plot", "cast", "the", "a", "is", "very")


def write_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> Path:
    """Save a BERT tokenizer of these words as transformers does; return the folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def write_table(folder: Path, **splits: dict[str, Any]) -> Path:
    """Write a data set as a folder of one Parquet file a split; return the folder."""
    folder.mkdir(parents=True)
    for split, columns in splits.items():
        pd.DataFrame(columns).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def write_sentences(folder: Path) -> Path:
    """Write 240 and 60 sentences whose class is that of the one adjective in them."""
    generator = np.random.default_rng(0)

    def table(count: int) -> dict[str, Any]:
        labels = generator.integers(0, 2, count)
        filler = [" ".join(generator.choice(WORDS[8:], generator.integers(2, 9))) for _ in labels]
        texts = [f"{text} {WORDS[generator.integers(4) + 4 * (1 - y)]}" for text, y in zip(filler, labels, strict=True)]
        return {"sentence": texts, "label": labels}

    return write_table(folder, train=table(240), test=table(60))


def write_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """Write a small data set for each task, of words in random order; return the settings ``data`` that read each."""
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
        write_table(folder / name, train=table(96), test=table(24))
        settings[name] = {"path": str(folder / name), "max_length": 16}
    settings["translations"]["columns"] = {"text": "source", "target": "target"}
    return settings
