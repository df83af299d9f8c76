"""T5 (Raffel et al., 2020) and FLAN-T5 (Chung et al., 2022): relu or gated, tied or not.

The relative position bias lives in block 0 and is shared by its stack, so that all layers of a stack have the same
heads; so do the cross attentions, which share one (zero) bias.
"""

from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.table import Family, Kept, also_under


def _attention(path: str, dimensions: str, query_place: str, key_place: str) -> dict[str, str]:
    head, key, value = f"{dimensions}_head", f"{dimensions}_key[l]", f"{dimensions}_value[l]"
    return {
        f"{path}.q": f"({head} {key}) residual @ {query_place}",
        f"{path}.k": f"({head} {key}) residual @ {key_place}",
        f"{path}.v": f"({head} {value}) residual @ {key_place}",
        f"{path}.o": f"residual ({head} {value}) @ {query_place}",
    }


def _stack(stack: str, ffn_layer: int, place: str) -> dict[str, str]:
    block, ffn = f"{stack}.block.[l]", f"{stack}_ffn[l]"
    dense = f"{block}.layer.{ffn_layer}.DenseReluDense"
    optional = "?" if stack == "decoder" else ""
    rows = {
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias": f". {stack}_head",
        f"{block}.layer.0.layer_norm": f"residual @ {place}",
        **_attention(f"{block}.layer.0.SelfAttention", stack, place, place),
        f"{block}.layer.{ffn_layer}.layer_norm": f"residual @ {place}",
        f"{dense}.wo": f"residual {ffn} @ {place}",
        f"{stack}.final_layer_norm": f"residual @ {place}",
    }
    either = {f"?{dense}.{name}": f"{ffn} residual @ {place}" for name in ("wi", "wi_0", "wi_1")}
    return {optional + name: label for name, label in rows.items()} | either


def _numbers(path: str, dimensions: str) -> dict[str, dict[str, str]]:
    head, key = f"{dimensions}_head", f"{dimensions}_key[l]"
    return {path: {"n_heads": head, "key_value_proj_dim": key, "inner_dim": f"{head} {key}"}}


def _kinds(stack: str) -> dict[str, Kind]:
    return {f"{stack}_head": Kind.HEAD, f"{stack}_key": Kind.KEY, f"{stack}_value": Kind.VALUE}


_WHOLE = "transformer."  # what the classification head calls its T5
_CROSS = "decoder.block.[l].layer.1.EncDecAttention"

T5 = Family(
    name="t5",
    rows=also_under(
        _WHOLE,
        {
            "shared": ". residual",
            **_stack("encoder", 1, "tokens"),
            **_stack("decoder", 2, "target"),
            "?decoder.block.[l].layer.1.layer_norm": "residual @ target",
            **{f"?{name}": label for name, label in _attention(_CROSS, "cross", "target", "tokens").items()},
            "?lm_head": ". residual @ target",
            "?qa_outputs": ". residual @ target",
            "?classification_head.dense": "pooled residual @ once",
            "?classification_head.out_proj": ". pooled @ once",
        },
    ),
    numbers=also_under(
        _WHOLE,
        {
            **_numbers("encoder.block.[l].layer.0.SelfAttention", "encoder"),
            **_numbers("decoder.block.[l].layer.0.SelfAttention", "decoder"),
            **_numbers(_CROSS, "cross"),
        },
    ),
    counts={"encoder_head": "num_heads", "decoder_head": "num_heads", "cross_head": "num_heads"},
    products=(
        "encoder_head encoder_key[l]",
        "encoder_head encoder_value[l]",
        "decoder_head decoder_key[l] @ target target",
        "decoder_head decoder_value[l] @ target target",
        "cross_head cross_key[l] @ target tokens",
        "cross_head cross_value[l] @ target tokens",
    ),
    kinds={
        "residual": Kind.RESIDUAL,
        **_kinds("encoder"),
        **_kinds("decoder"),
        **_kinds("cross"),
        "encoder_ffn": Kind.FFN,
        "decoder_ffn": Kind.FFN,
        "pooled": Kind.INNER,
    },
    stacks={
        "encoder": (*_kinds("encoder"), "encoder_ffn"),
        "decoder": (*_kinds("decoder"), "decoder_ffn"),
        "cross": tuple(_kinds("cross")),
    },
    kept=Kept(norm=2, ffn=1),
)
