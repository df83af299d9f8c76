"""DistilBERT (Sanh et al., 2019)."""

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.table import Family

_LAYER = "distilbert.transformer.layer.[l]"

DISTILBERT = Family(
    name="distilbert",
    rows={
        "distilbert.embeddings.word_embeddings": ". residual",
        "distilbert.embeddings.position_embeddings": ". residual",
        "distilbert.embeddings.LayerNorm": "residual",
        f"{_LAYER}.attention.q_lin": "(head[l] key[l]) residual",
        f"{_LAYER}.attention.k_lin": "(head[l] key[l]) residual",
        f"{_LAYER}.attention.v_lin": "(head[l] value[l]) residual",
        f"{_LAYER}.attention.out_lin": "residual (head[l] value[l])",
        f"{_LAYER}.sa_layer_norm": "residual",
        f"{_LAYER}.ffn.lin1": "ffn[l] residual",
        f"{_LAYER}.ffn.lin2": "residual ffn[l]",
        f"{_LAYER}.output_layer_norm": "residual",
        "?pre_classifier": "pooled residual @ once",
        "?classifier": ". pooled @ once",
        "?qa_outputs": ". residual",
    },
    numbers={
        f"{_LAYER}.attention": {"n_heads": "head[l]", "attention_head_size": "key[l]", "dim": "head[l] key[l]"},
    },
    counts={"head": "n_heads"},
    products=("head[l] key[l]", "head[l] value[l]"),
    kinds={
        "residual": Kind.RESIDUAL,
        "head": Kind.HEAD,
        "key": Kind.KEY,
        "value": Kind.VALUE,
        "ffn": Kind.FFN,
        "pooled": Kind.INNER,
    },
)
