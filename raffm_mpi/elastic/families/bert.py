"""BERT (Devlin et al., 2019)."""

from raffm_mpi.elastic.table import Family

BERT = Family(
    name="bert",
    rows={
        "bert.embeddings.word_embeddings": ". residual",
        "bert.embeddings.position_embeddings": ". residual",
        "bert.embeddings.token_type_embeddings": ". residual",
        "bert.embeddings.LayerNorm": "residual",
        "bert.encoder.layer.[l].attention.self.query": "(head[l] key[l]) residual",
        "bert.encoder.layer.[l].attention.self.key": "(head[l] key[l]) residual",
        "bert.encoder.layer.[l].attention.self.value": "(head[l] value[l]) residual",
        "bert.encoder.layer.[l].attention.output.dense": "residual (head[l] value[l])",
        "bert.encoder.layer.[l].attention.output.LayerNorm": "residual",
        "bert.encoder.layer.[l].intermediate.dense": "ffn[l] residual",
        "bert.encoder.layer.[l].output.dense": "residual ffn[l]",
        "bert.encoder.layer.[l].output.LayerNorm": "residual",
        "?bert.pooler.dense": "pooled residual @ once",
        "?classifier": ". pooled @ once",
    },
    numbers={
        "bert.encoder.layer.[l].attention.self": {
            "num_attention_heads": "head[l]",
            "attention_head_size": "key[l]",
            "all_head_size": "head[l] key[l]",
        },
    },
    counts={"head": "num_attention_heads"},
    products=("head[l] key[l]", "head[l] value[l]"),
    elastic={"ffn": ("ffn",), "heads": ("head",), "head_width": ("key", "value"), "residual": ("residual",)},
)
