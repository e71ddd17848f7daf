"""The public encoders that can be read, by ``model_type``: which field and tensor is which of ours.

Whatever a field says that our encoder cannot compute exactly is refused by name.

Source: the configuration and modelling files of huggingface/transformers 4.57 and 5.23, which spell
the rotary fields differently; both are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.formats.architecture import Architecture
from models.formats.folder import Fields, FormatError
from models.nn.architecture import Activation, TransformerConfig

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def _sizes(fields: Fields, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the sizes that every architecture has, under our names."""
    sizes = {ours: fields.integer(theirs) for ours, theirs in names.items()}
    heads, hidden = sizes["heads"], sizes["hidden"]
    if heads < 1 or hidden % heads:
        raise fields.error(names["heads"], f"a divisor of {names['hidden']}={hidden}")
    return {"kv_heads": heads, "head_dim": hidden // heads, **sizes}


_USUAL = {
    "vocab_size": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "max_positions": "max_position_embeddings",
}


def _bidirectional(fields: Fields, causal: bool | None) -> None:
    for name in ("is_decoder", "add_cross_attention", "is_causal"):
        fields.require(name, False)
    if causal:
        raise FormatError(f"{fields.path}: causal=True; this architecture allows False only")


def _bert(fields: Fields, causal: bool | None, _: int | None) -> TransformerConfig:
    _bidirectional(fields, causal)
    fields.require("position_embedding_type", "absolute")
    return TransformerConfig(
        **_sizes(fields, _USUAL),
        activation=fields.pick("hidden_act", ACTIVATIONS, "gelu"),
        norm_eps=fields.number("layer_norm_eps", 1e-12),
    )


def _after_padding(fields: Fields) -> int:
    return fields.integer("pad_token_id", 1) + 1


def _roberta(fields: Fields, causal: bool | None, _: int | None) -> TransformerConfig:
    config = _bert(fields, causal, None)
    return replace(config, max_positions=config.max_positions - _after_padding(fields))


def _mpnet(fields: Fields, causal: bool | None, _: int | None) -> TransformerConfig:
    # The public model computes with 32 buckets, whatever the field says.
    fields.require("relative_attention_num_buckets", 32)
    config = _bert(fields, causal, None)
    return replace(config, positions="relative", max_positions=config.max_positions - 2)


def _distilbert(fields: Fields, causal: bool | None, _: int | None) -> TransformerConfig:
    _bidirectional(fields, causal)
    names = {"hidden": "dim", "layers": "n_layers", "heads": "n_heads", "ffn": "hidden_dim"}
    return TransformerConfig(
        **_sizes(fields, {**_USUAL, **names}),
        activation=fields.pick("activation", ACTIVATIONS, "gelu"),
    )


def _theta(fields: Fields, old: str, default: float, kind: str | None = None) -> float:
    """Return a rotary base, in the old spelling or the new one, perhaps by kind of layer."""
    rotary = fields.within("rope_parameters")
    if kind is not None:
        rotary = rotary.within(kind)
    for spelling in (rotary, fields.within("rope_scaling")):
        for name in ("rope_type", "type"):
            spelling.require(name, "default")
        spelling.require("partial_rotary_factor", 1, 1.0)
    return rotary.number("rope_theta", fields.number(old, default))


def _starcoder2(fields: Fields, causal: bool | None, max_length: int | None) -> TransformerConfig:
    names = {**_USUAL, "kv_heads": "num_key_value_heads"}
    sizes = _sizes(fields, names)
    longest = min(max_length or sizes["max_positions"], sizes["max_positions"])
    window = fields.values.get("sliding_window")
    if window is not None and fields.integer("sliding_window") < longest:
        raise fields.error("sliding_window", f"none, or the longest input, max_length={longest}")
    fields.require("partial_rotary_factor", 1, 1.0)
    fields.require("is_causal", True)
    has_bias = fields.flag("use_bias", default=True)
    return TransformerConfig(
        **{**sizes, "head_dim": fields.integer("head_dim", sizes["head_dim"])},
        activation=fields.pick("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh"),
        norm="pre",
        norm_eps=fields.number("norm_epsilon", 1e-5),
        embedding_norm=False,
        attention_bias=has_bias,
        ffn_bias=has_bias,
        positions="rotary",
        rotary_theta=_theta(fields, "rope_theta", 10_000.0),
        causal=True if causal is None else causal,
    )


def _modernbert(fields: Fields, causal: bool | None, _: int | None) -> TransformerConfig:
    _bidirectional(fields, causal)
    sizes = _sizes(fields, _USUAL)
    return TransformerConfig(
        **sizes,
        activation=fields.pick("hidden_activation", ACTIVATIONS, "gelu"),
        gated=True,
        norm="pre",
        norm_eps=fields.number("norm_eps", 1e-5),
        norm_bias=fields.flag("norm_bias", default=False),
        first_attention_norm=False,
        attention_bias=fields.flag("attention_bias", default=False),
        ffn_bias=fields.flag("mlp_bias", default=False),
        positions="rotary",
        rotary_theta=_theta(fields, "global_rope_theta", 160_000.0, "full_attention"),
        local_theta=_theta(fields, "local_rope_theta", 10_000.0, "sliding_attention"),
        window=fields.integer("local_attention", 128) // 2,
        global_every=_global_every(fields, sizes["layers"]),
    )


def _global_every(fields: Fields, layers: int) -> int:
    """Return n if layers 0, n, 2n ... are global, in the old spelling or the list of the new."""
    kinds = fields.values.get("layer_types")
    if kinds is None:
        return fields.integer("global_attn_every_n_layers", 3)
    for every in range(1, layers + 1):
        pattern = ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
        if kinds == pattern:
            return every
    raise fields.error("layer_types", "full_attention for the first of every n, else sliding")


_BERT_LAYER: dict[str, Any] = {
    "config": _bert,
    "token": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "layer": "encoder.layer.{}.",
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "ffn_norm": "output.LayerNorm",
    "ignored": (
        r"embeddings\.(position_ids|token_type_ids)",
        r"pooler\..*",
        r"(cls|classifier|qa_outputs|lm_head)\..*",
    ),
}
_TYPES = "embeddings.token_type_embeddings"
_BERT = Architecture(prefixes=("bert.",), types=_TYPES, **_BERT_LAYER)
_ROBERTA = replace(_BERT, config=_roberta, prefixes=("roberta.",), offset=_after_padding)
_MPNET = replace(
    _BERT,
    config=_mpnet,
    prefixes=("mpnet.",),
    types=None,
    offset=lambda _: 2,
    qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    out="attention.attn.o",
    attention_norm="attention.LayerNorm",
    relative="encoder.relative_attention_bias",
)
_DISTILBERT = Architecture(
    config=_distilbert,
    prefixes=("distilbert.",),
    ignored=(
        r"embeddings\.position_ids",
        r"(vocab_transform|vocab_layer_norm|vocab_projector|pre_classifier)\..*",
        r"(classifier|qa_outputs)\..*",
    ),
    token="embeddings.word_embeddings",
    position="embeddings.position_embeddings",
    embedding_norm="embeddings.LayerNorm",
    layer="transformer.layer.{}.",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    ffn_norm="output_layer_norm",
)
_STARCODER2 = Architecture(
    config=_starcoder2,
    prefixes=("model.",),
    ignored=(r"(lm_head|score)\..*", r".*\.rotary_emb\.inv_freq"),
    token="embed_tokens",
    final_norm="norm",
    layer="layers.{}.",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.o_proj",
    attention_norm="input_layernorm",
    up="mlp.c_fc",
    down="mlp.c_proj",
    ffn_norm="post_attention_layernorm",
)
_MODERNBERT = Architecture(
    config=_modernbert,
    prefixes=("model.",),
    ignored=(r"(head|decoder|classifier|qa_outputs)\..*", r".*\.rotary_emb\.inv_freq"),
    token="embeddings.tok_embeddings",
    embedding_norm="embeddings.norm",
    final_norm="final_norm",
    layer="layers.{}.",
    qkv=("attn.Wqkv",),
    out="attn.Wo",
    attention_norm="attn_norm",
    up="mlp.Wi",
    down="mlp.Wo",
    ffn_norm="mlp_norm",
)
MODEL_TYPES: dict[str, Architecture] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": _MPNET,
    "distilbert": _DISTILBERT,
    "starcoder2": _STARCODER2,
    "modernbert": _MODERNBERT,
}
