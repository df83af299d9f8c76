"""GPT-2 (Radford et al., 2019): fused queries, keys and values in a transposed linear layer (``Conv1D``).

Keys and values share one row of the table, and some releases of transformers scale by the width that a head has now:
so the width of heads may be reordered, but is not cut.
"""

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.table import Family, Kept

_LAYER = "transformer.h.[l]"

GPT2 = Family(
    name="gpt2",
    rows={
        "transformer.wte": ". residual",
        "transformer.wpe": ". residual",
        f"{_LAYER}.ln_1": "residual",
        f"{_LAYER}.attn.c_attn": "residual (3 head[l] key[l])",
        f"{_LAYER}.attn.c_proj": "(head[l] key[l]) residual",
        f"{_LAYER}.ln_2": "residual",
        f"{_LAYER}.mlp.c_fc": "residual ffn[l]",
        f"{_LAYER}.mlp.c_proj": "ffn[l] residual",
        "transformer.ln_f": "residual",
        "?lm_head": ". residual",
        "?score": ". residual",
        "?qa_outputs": ". residual",
    },
    numbers={
        f"{_LAYER}.attn": {"num_heads": "head[l]", "head_dim": "key[l]", "split_size": "head[l] key[l]"},
    },
    counts={"head": "num_attention_heads"},
    products=("head[l] key[l]", "head[l] key[l]"),
    kinds={"residual": Kind.RESIDUAL, "head": Kind.HEAD, "key": Kind.HEAD_WIDTH, "ffn": Kind.FFN},
    lacks={Kind.KEY: "queries and keys share their rows with the values, so that their order is that of all three"},
    kept=Kept(ffn=3),
)
