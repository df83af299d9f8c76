"""The vision encoder of SAM (Kirillov et al., 2023): attention in windows, with relative positions.

Its fused attention scales by the width that a head has now, so the width of heads may be reordered, but is not cut.
"""

from typing import Any

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.table import Family, Kept, also_under, num_patches

_LAYER = "vision_encoder.layers.[l]"


def _lengths(config: Any) -> dict[str, int]:
    """Tokens that each layer attends from (windows are padded), keys of each, and rows and columns of a window."""
    side = config.image_size // config.patch_size
    lengths = {"patches": num_patches(config), "tokens": num_patches(config)}
    for layer in range(config.num_hidden_layers):
        window = side if layer in config.global_attn_indexes or not config.window_size else config.window_size
        lengths[f"attended[{layer}]"] = (-(-side // window) * window) ** 2
        lengths[f"keys[{layer}]"] = window**2
        lengths[f"sides[{layer}]"] = 2 * window if config.use_rel_pos else 0
    return lengths


SAM_VISION = Family(
    name="sam_vision_model",
    rows=also_under(
        "encoder.",  # of one that has a head
        {
            "?vision_encoder.pos_embed": ". . . residual",
            "vision_encoder.patch_embed.projection": "residual . . . @ patches",
            f"{_LAYER}.layer_norm1": "residual",
            f"{_LAYER}.attn.qkv": "(3 head[l] key[l]) residual @ attended[l]",
            f"{_LAYER}.attn.proj": "residual (head[l] key[l]) @ attended[l]",
            f"?{_LAYER}.attn.rel_pos_h": ". key[l]",
            f"?{_LAYER}.attn.rel_pos_w": ". key[l]",
            f"{_LAYER}.layer_norm2": "residual",
            f"{_LAYER}.mlp.lin1": "ffn[l] residual",
            f"{_LAYER}.mlp.lin2": "residual ffn[l]",
            "vision_encoder.neck.conv1": "neck residual . .",
            "vision_encoder.neck.layer_norm1": "neck",
            "vision_encoder.neck.conv2": ". neck . .",
            "vision_encoder.neck.layer_norm2": ".",
            "?classifier": ". . @ once",
        },
    ),
    numbers=also_under("encoder.", {f"{_LAYER}.attn": {"num_attention_heads": "head[l]"}}),
    counts={"head": "num_attention_heads"},
    products=(
        "head[l] key[l] @ attended[l] keys[l]",
        "head[l] key[l] @ attended[l] keys[l]",
        "head[l] key[l] @ attended[l] sides[l]",
    ),
    kinds={
        "residual": Kind.RESIDUAL,
        "head": Kind.HEAD,
        "key": Kind.HEAD_WIDTH,
        "ffn": Kind.FFN,
        "neck": Kind.INNER,
    },
    lacks={Kind.KEY: "queries and keys share their rows with the values, so that their order is that of all three"},
    lengths=_lengths,
    kept=Kept(norm=2, scores=1),
)
