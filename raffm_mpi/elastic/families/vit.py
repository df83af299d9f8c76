"""ViT (Dosovitskiy et al., 2021), DeiT (Touvron et al., 2021) and DINOv2 (Oquab et al., 2023)."""

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.table import Family, num_patches

_NUMBERS = {
    "attention": {"?num_attention_heads": "head[l]", "?head_dim": "key[l]"},
    "attention.attention": {
        "num_attention_heads": "head[l]",
        "attention_head_size": "key[l]",
        "all_head_size": "head[l] key[l]",
    },
}


def _layers(model: str) -> tuple[str, str]:
    """Where a model keeps its layers: since transformers 5.23 (but DINOv2), and before."""
    return f"{model}.layers.[l]", f"{model}.encoder.layer.[l]"


def _any(model: str, *names: str) -> str:
    """The names that a module of a layer has had."""
    return " | ".join(f"{layer}.{name}" for layer in _layers(model) for name in names)


def _rows(model: str, before: str, after: str) -> dict[str, str]:
    return {
        f"{model}.embeddings.cls_token": ". . residual",
        f"{model}.embeddings.position_embeddings": ". . residual",
        f"{model}.embeddings.patch_embeddings.projection": "residual . . . @ patches",
        _any(model, before): "residual",
        _any(model, "attention.q_proj", "attention.attention.query"): "(head[l] key[l]) residual",
        _any(model, "attention.k_proj", "attention.attention.key"): "(head[l] key[l]) residual",
        _any(model, "attention.v_proj", "attention.attention.value"): "(head[l] value[l]) residual",
        _any(model, "attention.o_proj", "attention.output.dense"): "residual (head[l] value[l])",
        _any(model, after): "residual",
        f"{model}.layernorm": "residual",
    }


def _mlp(model: str) -> dict[str, str]:
    return {
        _any(model, "mlp.fc1", "intermediate.dense"): "ffn[l] residual",
        _any(model, "mlp.fc2", "output.dense"): "residual ffn[l]",
        f"?{model}.pooler.dense": "pooled residual @ once",
    }


def _family(model: str, rows: dict[str, str], extra_tokens: int, inner: tuple[str, ...] = ()) -> Family:
    return Family(
        name=model,
        rows=rows,
        numbers={_any(model, module): sizes for module, sizes in _NUMBERS.items()},
        counts={"head": "num_attention_heads"},
        products=("head[l] key[l]", "head[l] value[l]"),
        kinds={
            "residual": Kind.RESIDUAL,
            "head": Kind.HEAD,
            "key": Kind.KEY,
            "value": Kind.VALUE,
            "ffn": Kind.FFN,
            **dict.fromkeys(inner, Kind.INNER),
        },
        lengths=lambda config: {"patches": num_patches(config), "tokens": num_patches(config) + extra_tokens},
    )


VIT = _family(
    "vit",
    {**_rows("vit", "layernorm_before", "layernorm_after"), **_mlp("vit"), "?classifier": ". residual @ once"},
    extra_tokens=1,
    inner=("pooled",),
)
DEIT = _family(
    "deit",
    {
        **_rows("deit", "layernorm_before", "layernorm_after"),
        **_mlp("deit"),
        "deit.embeddings.distillation_token": ". . residual",
        "?classifier": ". residual @ once",
        "?cls_classifier": ". residual @ once",
        "?distillation_classifier": ". residual @ once",
    },
    extra_tokens=2,
    inner=("pooled",),
)
DINOV2 = _family(
    "dinov2",
    {
        **_rows("dinov2", "norm1", "norm2"),
        "?dinov2.embeddings.mask_token": ". residual",
        _any("dinov2", "layer_scale1.lambda1"): "residual",
        _any("dinov2", "layer_scale2.lambda1"): "residual",
        f"?{_any('dinov2', 'mlp.fc1', 'mlp.gate_proj')}": "ffn[l] residual",
        f"?{_any('dinov2', 'mlp.up_proj')}": "ffn[l] residual",
        f"?{_any('dinov2', 'mlp.weights_in')}": "(2 ffn[l]) residual",
        _any("dinov2", "mlp.fc2", "mlp.down_proj", "mlp.weights_out"): "residual ffn[l]",
        "?classifier": ". (2 residual) @ once",
    },
    extra_tokens=1,
)
