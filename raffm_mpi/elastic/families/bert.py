"""BERT (Devlin et al., 2019) and RoBERTa (Liu et al., 2019)."""

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.table import Family


def _family(model: str, heads: dict[str, str], reserved_positions: int = 0) -> Family:
    layer = f"{model}.encoder.layer.[l]"
    return Family(
        name=model,
        rows={
            f"{model}.embeddings.word_embeddings": ". residual",
            f"{model}.embeddings.position_embeddings": ". residual",
            f"{model}.embeddings.token_type_embeddings": ". residual",
            f"{model}.embeddings.LayerNorm": "residual",
            f"{layer}.attention.self.query": "(head[l] key[l]) residual",
            f"{layer}.attention.self.key": "(head[l] key[l]) residual",
            f"{layer}.attention.self.value": "(head[l] value[l]) residual",
            f"{layer}.attention.output.dense": "residual (head[l] value[l])",
            f"{layer}.attention.output.LayerNorm": "residual",
            f"{layer}.intermediate.dense": "ffn[l] residual",
            f"{layer}.output.dense": "residual ffn[l]",
            f"{layer}.output.LayerNorm": "residual",
            f"?{model}.pooler.dense": "pooled residual @ once",
            "?qa_outputs": ". residual",
            **heads,
        },
        numbers={
            f"{layer}.attention.self": {
                "num_attention_heads": "head[l]",
                "attention_head_size": "key[l]",
                "all_head_size": "head[l] key[l]",
            },
        },
        counts={"head": "num_attention_heads"},
        products=("head[l] key[l]", "head[l] value[l]"),
        kinds={
            "residual": Kind.RESIDUAL,
            "head": Kind.HEAD,
            "key": Kind.KEY,
            "value": Kind.VALUE,
            "ffn": Kind.FFN,
            "pooled": Kind.INNER,
        },
        reserved_positions=reserved_positions,
    )


BERT = _family("bert", {"?classifier": ". pooled @ once"})
ROBERTA = _family(
    "roberta",
    {"?classifier.dense": "pooled residual @ once", "?classifier.out_proj": ". pooled @ once"},
    reserved_positions=2,  # positions count from the padding token's on
)
