"""ViT (Dosovitskiy et al., 2021)."""

from raffm_mpi.elastic.table import Family

VIT = Family(
    name="vit",
    rows={
        "vit.embeddings.cls_token": ". . residual",
        "vit.embeddings.position_embeddings": ". . residual",
        "vit.embeddings.patch_embeddings.projection": "residual . . . @ patches",
        "vit.layers.[l].layernorm_before | vit.encoder.layer.[l].layernorm_before": "residual",
        "vit.layers.[l].attention.q_proj | vit.encoder.layer.[l].attention.attention.query": (
            "(head[l] key[l]) residual"
        ),
        "vit.layers.[l].attention.k_proj | vit.encoder.layer.[l].attention.attention.key": "(head[l] key[l]) residual",
        "vit.layers.[l].attention.v_proj | vit.encoder.layer.[l].attention.attention.value": (
            "(head[l] value[l]) residual"
        ),
        "vit.layers.[l].attention.o_proj | vit.encoder.layer.[l].attention.output.dense": "residual (head[l] value[l])",
        "vit.layers.[l].layernorm_after | vit.encoder.layer.[l].layernorm_after": "residual",
        "vit.layers.[l].mlp.fc1 | vit.encoder.layer.[l].intermediate.dense": "ffn[l] residual",
        "vit.layers.[l].mlp.fc2 | vit.encoder.layer.[l].output.dense": "residual ffn[l]",
        "vit.layernorm": "residual",
        "?vit.pooler.dense": "pooled residual @ once",
        "?classifier": ". residual @ once",
    },
    numbers={
        "vit.layers.[l].attention": {"num_attention_heads": "head[l]", "head_dim": "key[l]"},
        "vit.encoder.layer.[l].attention.attention": {
            "num_attention_heads": "head[l]",
            "attention_head_size": "key[l]",
            "all_head_size": "head[l] key[l]",
        },
    },
    counts={"head": "num_attention_heads"},
    products=("head[l] key[l]", "head[l] value[l]"),
    elastic={"ffn": ("ffn",), "heads": ("head",), "head_width": ("key", "value"), "residual": ("residual",)},
    positions="vit.embeddings.position_embeddings",
    num_extra_tokens=1,
)
