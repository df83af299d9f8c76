"""CLIP (Radford et al., 2021): two towers, each with a residual of its own."""

from typing import Any

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.table import Family, num_patches


def _tower(tower: str, place: str) -> dict[str, str]:
    layer, residual = f"{tower}_model.encoder.layers.[l]", f"{tower}_residual"
    head, key, value = f"{tower}_head[l]", f"{tower}_key[l]", f"{tower}_value[l]"
    rows = {
        f"{tower}_model.embeddings.position_embedding": f". {residual}",
        f"{layer}.layer_norm1": residual,
        f"{layer}.self_attn.q_proj": f"({head} {key}) {residual}",
        f"{layer}.self_attn.k_proj": f"({head} {key}) {residual}",
        f"{layer}.self_attn.v_proj": f"({head} {value}) {residual}",
        f"{layer}.self_attn.out_proj": f"{residual} ({head} {value})",
        f"{layer}.layer_norm2": residual,
        f"{layer}.mlp.fc1": f"{tower}_ffn[l] {residual}",
        f"{layer}.mlp.fc2": f"{residual} {tower}_ffn[l]",
    }
    return {f"?{name}": f"{label} @ {place}" for name, label in rows.items()}


def _kinds(tower: str) -> dict[str, Kind]:
    return {
        f"{tower}_residual": Kind.RESIDUAL,
        f"{tower}_head": Kind.HEAD,
        f"{tower}_key": Kind.KEY,
        f"{tower}_value": Kind.VALUE,
        f"{tower}_ffn": Kind.FFN,
    }


def _lengths(config: Any) -> dict[str, int]:
    vision = getattr(config, "vision_config", config)
    if not hasattr(vision, "image_size"):
        return {}
    return {"patches": num_patches(vision), "vision": num_patches(vision) + 1}


CLIP = Family(
    name="clip",
    rows={
        "?vision_model.embeddings.class_embedding": "vision_residual @ once",
        "?vision_model.embeddings.patch_embedding": "vision_residual . . . @ patches",
        "?vision_model.pre_layrnorm": "vision_residual @ vision",
        **_tower("vision", "vision"),
        "?vision_model.post_layernorm": "vision_residual @ once",
        "?text_model.embeddings.token_embedding": ". text_residual",
        **_tower("text", "tokens"),
        "?text_model.final_layer_norm": "text_residual",
        "?visual_projection": "joint vision_residual @ once",
        "?text_projection": "joint text_residual @ once",
        "?logit_scale": "",
        "?classifier": ". vision_residual @ once",
    },
    numbers={
        f"{tower}_model.encoder.layers.[l].self_attn": {
            "num_heads": f"{tower}_head[l]",
            "head_dim": f"{tower}_key[l]",
        }
        for tower in ("vision", "text")
    },
    counts={
        "vision_head": "vision_config.num_attention_heads | num_attention_heads",
        "text_head": "text_config.num_attention_heads | num_attention_heads",
    },
    products=(
        "vision_head[l] vision_key[l] @ vision vision",
        "vision_head[l] vision_value[l] @ vision vision",
        "text_head[l] text_key[l]",
        "text_head[l] text_value[l]",
        "joint @ once once",
    ),
    kinds={**_kinds("vision"), **_kinds("text"), "joint": Kind.INNER},
    stacks={tower: tuple(_kinds(tower)) for tower in ("vision", "text")},
    lengths=_lengths,
)
