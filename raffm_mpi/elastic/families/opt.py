"""OPT (Zhang et al., 2022); the worked example of docs/families.md."""

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.table import Family

_LAYER = "model.decoder.layers.[l]"

OPT = Family(
    name="opt",
    rows={
        "model.decoder.embed_tokens": ". residual",
        "model.decoder.embed_positions": ". residual",
        f"{_LAYER}.self_attn_layer_norm": "residual",
        f"{_LAYER}.self_attn.q_proj": "(head[l] key[l]) residual",
        f"{_LAYER}.self_attn.k_proj": "(head[l] key[l]) residual",
        f"{_LAYER}.self_attn.v_proj": "(head[l] value[l]) residual",
        f"{_LAYER}.self_attn.out_proj": "residual (head[l] value[l])",
        f"{_LAYER}.final_layer_norm": "residual",
        f"{_LAYER}.fc1": "ffn[l] residual",
        f"{_LAYER}.fc2": "residual ffn[l]",
        "?model.decoder.final_layer_norm": "residual",
        "?lm_head": ". residual",
        "?score": ". residual",
        "?qa_outputs": ". residual",
    },
    numbers={f"{_LAYER}.self_attn": {"num_heads": "head[l]", "head_dim": "key[l]"}},
    counts={"head": "num_attention_heads"},
    products=("head[l] key[l]", "head[l] value[l]"),
    kinds={"residual": Kind.RESIDUAL, "head": Kind.HEAD, "key": Kind.KEY, "value": Kind.VALUE, "ffn": Kind.FFN},
)
