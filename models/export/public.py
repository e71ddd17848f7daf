"""Which public architecture an encoder of ours is, and its ``config.json``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from models.nn.architecture import Activation, TransformerConfig
from models.nn.patches import PatchConfig

_ACTIVATIONS: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
}


@dataclass(frozen=True)
class Public:
    """A public architecture.

    Attributes:
        class_name: Of transformers.
        fits: Whether an encoder of ours is one.
        config: Returns the fields of ``config.json``, without those that all have.
        has_head_dim: Whether the number of heads is free of the hidden size.
    """

    class_name: str
    fits: Callable[[TransformerConfig], bool]
    config: Callable[[TransformerConfig], dict[str, Any]]
    has_head_dim: bool = False


def _is_post(config: TransformerConfig) -> bool:
    return (
        config.norm == "post"
        and not config.gated
        and config.norm_bias
        and config.embedding_norm
        and config.attention_bias
        and config.ffn_bias
        and config.window is None
        and not config.causal
        and config.kv_heads == config.heads
        and config.hidden % config.head_dim == 0
    )


def _usual(config: TransformerConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "max_position_embeddings": config.max_positions,
    }


def _post(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_usual(config),
        "hidden_act": _ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
    }


def _bert(config: TransformerConfig) -> dict[str, Any]:
    return {**_post(config), "type_vocab_size": 2}


def _mpnet(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_post(config),
        "max_position_embeddings": config.max_positions + 2,
        "relative_attention_num_buckets": config.relative_buckets,
    }


def _is_starcoder2(config: TransformerConfig) -> bool:
    return (
        config.norm == "pre"
        and not config.gated
        and config.norm_bias
        and not config.embedding_norm
        and config.first_attention_norm
        and config.attention_bias == config.ffn_bias
        and config.positions == "rotary"
        and config.window is None
        and config.causal
    )


def _starcoder2(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_usual(config),
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": _ACTIVATIONS[config.activation],
        "norm_epsilon": config.norm_eps,
        "use_bias": config.attention_bias,
        "rope_theta": config.rotary_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_theta},
        "sliding_window": None,
    }


def _is_modernbert(config: TransformerConfig) -> bool:
    return (
        config.norm == "pre"
        and config.gated
        and config.embedding_norm
        and not config.first_attention_norm
        and config.positions == "rotary"
        and not config.causal
        and config.kv_heads == config.heads
        and config.hidden % config.head_dim == 0
    )


def _modernbert(config: TransformerConfig) -> dict[str, Any]:
    kinds = [
        "full_attention" if config.is_global(i) else "sliding_attention"
        for i in range(config.layers)
    ]
    return {
        **_usual(config),
        "hidden_activation": _ACTIVATIONS[config.activation],
        "norm_eps": config.norm_eps,
        "norm_bias": config.norm_bias,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.ffn_bias,
        "layer_types": kinds,
        "global_attn_every_n_layers": config.global_every,
        "local_attention": 2 * (config.window or config.max_positions),
        "global_rope_theta": config.rotary_theta,
        "local_rope_theta": config.local_theta,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": config.rotary_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": config.local_theta},
        },
    }


def image_config(
    kind: Literal["vit", "deit"], config: TransformerConfig, image: PatchConfig
) -> dict[str, Any]:
    """Return ``config.json`` of a classifier of images."""
    return {
        **_usual(config),
        "model_type": kind,
        "architectures": [{"vit": "ViT", "deit": "DeiT"}[kind] + "ForImageClassification"],
        "hidden_act": _ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
        "image_size": image.input.height,
        "patch_size": image.size,
        "num_channels": 3,
        "qkv_bias": True,
    }


PUBLIC: dict[str, Public] = {
    "bert": Public(
        "BertModel", lambda config: _is_post(config) and config.positions == "absolute", _bert
    ),
    "mpnet": Public(
        "MPNetModel",
        lambda config: (
            _is_post(config) and config.positions == "relative" and config.relative_buckets == 32
        ),
        _mpnet,
    ),
    "starcoder2": Public("Starcoder2Model", _is_starcoder2, _starcoder2, has_head_dim=True),
    "modernbert": Public("ModernBertModel", _is_modernbert, _modernbert),
}
