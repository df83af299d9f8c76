"""Llama (Touvron et al., 2023), and Mistral, Qwen2 and Qwen3, which are built alike.

Rotary embeddings tie the rows of a query and key head to frequencies: they are a fixed factor, neither cut nor
reordered. What is elastic are whole key-value heads, the queries that share one (``groups``), and the FFN; values may
be reordered, but transformers takes their width for that of the keys, so they are not cut.
"""

from typing import TypeVar

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.table import Family, Kept

T = TypeVar("T")


def _both(table: dict[str, T]) -> dict[str, T]:
    """The names under ``model``, and under ``transformer``, as the question-answering head calls it."""
    return {f"{name} | {name.replace('model.', 'transformer.')}": entry for name, entry in table.items()}


_LAYER = "model.layers.[l]"

LLAMA = Family(
    name="llama",
    rows={
        **_both(
            {
                "model.embed_tokens": ". residual",
                f"{_LAYER}.input_layernorm": "residual",
                f"{_LAYER}.self_attn.q_proj": "(kv_head[l] group[l] .) residual",
                f"{_LAYER}.self_attn.k_proj": "(kv_head[l] .) residual",
                f"{_LAYER}.self_attn.v_proj": "(kv_head[l] value[l]) residual",
                f"{_LAYER}.self_attn.o_proj": "residual (kv_head[l] group[l] value[l])",
                f"?{_LAYER}.self_attn.q_norm": ".",
                f"?{_LAYER}.self_attn.k_norm": ".",
                f"{_LAYER}.post_attention_layernorm": "residual",
                f"{_LAYER}.mlp.gate_proj": "ffn[l] residual",
                f"{_LAYER}.mlp.up_proj": "ffn[l] residual",
                f"{_LAYER}.mlp.down_proj": "residual ffn[l]",
                "model.norm": "residual",
            }
        ),
        "?lm_head": ". residual",
        "?score": ". residual",
        "?qa_outputs": ". residual",
    },
    numbers=_both(
        {
            f"{_LAYER}.self_attn": {"num_key_value_groups": "group[l]"},
            f"{_LAYER}.mlp": {"?intermediate_size": "ffn[l]"},
        }
    ),
    counts={"kv_head": "num_key_value_heads"},
    products=("kv_head[l] group[l] .", "kv_head[l] group[l] value[l]"),
    kinds={
        "residual": Kind.RESIDUAL,
        "kv_head": Kind.KV_HEAD,
        "group": Kind.GROUP,
        "value": Kind.VALUE,
        "ffn": Kind.FFN,
    },
    lacks={Kind.KEY: "rotary embeddings tie each row of a query and a key to a frequency, so that none can move"},
    kept=Kept(norm=2, ffn=0.5),
)
