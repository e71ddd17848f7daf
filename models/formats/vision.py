"""Reads ViT, DeiT and DINOv2 folders of huggingface/transformers: classes or a vector of an image.

Constants are folded: the bias of the patches and the first positions into tables, and the scales of
DINOv2's layers into the weights before them. Images are scaled by our own rule (bicubic until the
shorter side fits, cut at the centre); what follows equals the public model for equal pixels.

Source: the modelling files of huggingface/transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.families.headed import Headed, HeadedConfig
from models.formats.folder import Fields, Tensors
from models.formats.huggingface import CONFIG
from models.formats.model_types import ACTIVATIONS
from models.formats.sequence_classifiers import labels_of
from models.inputs.image import ImageInput
from models.nn.architecture import TransformerConfig
from models.nn.head import HeadLayer
from models.nn.patches import PatchConfig
from models.nn.pooling import Pooling

PREPROCESSOR = "preprocessor_config.json"
_PREFIXES = {"vit": 1, "deit": 2, "dinov2": 1}
MODEL_TYPES = frozenset(_PREFIXES)
_NAMES = {  # of a layer's parts: attention norm, feed-forward norm, up, down
    "vit": ("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"),
    "deit": ("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"),
    "dinov2": ("norm1", "norm2", "mlp.fc1", "mlp.fc2"),
}


def read(folder: Path, name: str, *, depths: Sequence[int] | None = None) -> Headed:
    """Read a folder as a model of one task, in evaluation mode.

    A classifier gives classes. A bare encoder gives the normalised first token as a unit vector.

    Args:
        folder: With ``config.json``, ``model.safetensors`` or its shards, and
            ``preprocessor_config.json``.
        name: What clients call the model.
        depths: Numbers of first layers after which the final norm and the head may come, ascending,
            the last all of them; None for all of them alone.

    Raises:
        FormatError: If a file is missing, or says something that cannot be expressed exactly.
        ValueError: If the depths do not fit the model.
    """
    fields = Fields.read(folder / CONFIG)
    kind = fields.pick("model_type", {one: one for one in _PREFIXES})
    is_classifier = _is_classifier(fields)
    fields.require("use_swiglu_ffn", False)
    fields.require("apply_layernorm", True)
    fields.require("num_channels", 3)
    image = PatchConfig(_input(folder, fields), fields.integer("patch_size"), _PREFIXES[kind])
    encoder = _encoder(fields, kind, image)
    exits = (encoder.layers,) if depths is None else tuple(depths)
    tensors = Tensors.read(folder)
    state: dict[str, Tensor] = {}
    pooling: Pooling | tuple[Pooling, ...] = "cls"
    labels = labels_of(fields) if is_classifier else ()
    if is_classifier:
        pooling = ("cls", "rest") if kind == "dinov2" else "cls"
        width = encoder.hidden * (2 if kind == "dinov2" else 1)
        own = _linear(tensors, "classifier", len(labels), width)
        state |= {f"exits.{n}.head.0.{part}": t for n in exits for part, t in own.items()}
    tensors.strip((f"{kind}.",), "embeddings.cls_token")
    state |= _embedding(tensors, encoder, image)
    for i in range(encoder.layers):
        state |= _layer(tensors, encoder, kind, i)
    for part in ("weight", "bias"):
        state[f"final_norm.{part}"] = tensors.take(f"layernorm.{part}", encoder.hidden)
    tensors.finish((r"pooler\..*", r"embeddings\.mask_token"))
    config = HeadedConfig(
        encoder=encoder,
        task="label" if is_classifier else "similarity",
        kind="classes" if is_classifier else "embedding",
        labels=labels,
        metric="accuracy" if is_classifier else "spearman",
        image=image,
        depths=exits,
        pooling=pooling,
        exit_norm="final",
        head=(HeadLayer("linear", len(labels)),) if is_classifier else (),
    )
    model = Headed(name, config)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def _is_classifier(fields: Fields) -> bool:
    """Return whether there is a classifier; FormatError if it is of another kind."""
    (architecture, *_) = fields.values.get("architectures") or [""]
    if str(architecture).endswith("ForImageClassification"):
        return True
    if not str(architecture).endswith("Model"):
        raise fields.error(
            "architectures",
            "a bare model or one for image classification; DeiT with a teacher needs two "
            "classifiers on two tokens",
        )
    return False


def _input(folder: Path, fields: Fields) -> ImageInput:
    said = Fields.read(folder / PREPROCESSOR)
    for name in ("do_normalize", "do_rescale"):
        said.require(name, True)
    factor = said.number("rescale_factor", 1 / 255)
    if abs(factor * 255 - 1) > 1e-6:
        raise said.error("rescale_factor", "1 / 255")
    size = fields.integer("image_size")
    return ImageInput(size, size, _three(said, "image_mean"), _three(said, "image_std"))


def _three(said: Fields, name: str) -> tuple[float, float, float]:
    values: Any = said.values.get(name)
    if not isinstance(values, list) or len(values) != 3:
        raise said.error(name, "three numbers")
    try:
        first, second, third = map(float, values)
    except (TypeError, ValueError):
        raise said.error(name, "three numbers") from None
    return first, second, third


def _encoder(fields: Fields, kind: str, image: PatchConfig) -> TransformerConfig:
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if heads < 1 or hidden % heads:
        raise fields.error("num_attention_heads", f"a divisor of hidden_size={hidden}")
    ffn = (
        hidden * fields.integer("mlp_ratio", 4)
        if kind == "dinov2"
        else fields.integer("intermediate_size")
    )
    return TransformerConfig(
        vocab_size=1,
        hidden=hidden,
        layers=fields.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=ffn,
        activation=fields.pick("hidden_act", ACTIVATIONS, "gelu"),
        norm="pre",
        norm_eps=fields.number("layer_norm_eps", 1e-12),
        embedding_norm=False,
        max_positions=image.tokens,
    )


def _embedding(
    tensors: Tensors, encoder: TransformerConfig, image: PatchConfig
) -> dict[str, Tensor]:
    hidden, size = encoder.hidden, image.size
    patches = "embeddings.patch_embeddings.projection"
    positions = tensors.take("embeddings.position_embeddings", 1, image.tokens, hidden)[0]
    prefix = [tensors.take("embeddings.cls_token", 1, 1, hidden)[0]]
    if image.prefix > 1:
        prefix.append(tensors.take("embeddings.distillation_token", 1, 1, hidden)[0])
    bias = tensors.take(f"{patches}.bias", hidden)
    return {
        "embedding.weight": tensors.take(f"{patches}.weight", hidden, 3, size, size),
        "embedding.prefix": torch.cat(prefix) + positions[: image.prefix],
        "embedding.position": positions[image.prefix :] + bias,
    }


def _layer(tensors: Tensors, encoder: TransformerConfig, kind: str, i: int) -> dict[str, Tensor]:
    hidden, ffn = encoder.hidden, encoder.ffn
    ours, theirs = f"layers.{i}", f"encoder.layer.{i}"
    attention_norm, ffn_norm, up, down = (f"{theirs}.{name}" for name in _NAMES[kind])
    attention = f"{theirs}.attention.attention"
    names = ("query", "key", "value")
    parts = [_linear(tensors, f"{attention}.{name}", hidden, hidden) for name in names]
    joined = {
        part: torch.cat(
            [one[part].view(encoder.heads, -1, *one[part].shape[1:]) for one in parts], dim=1
        )
        for part in ("weight", "bias")
    }
    found = {
        f"{ours}.attention.qkv": joined["weight"],
        f"{ours}.attention.qkv_bias": joined["bias"],
    }
    for name, public, outputs, inputs, scale in (
        ("attention.out", f"{theirs}.attention.output.dense", hidden, hidden, "layer_scale1"),
        ("ffn.up", up, ffn, hidden, None),
        ("ffn.down", down, hidden, ffn, "layer_scale2"),
    ):
        own = _linear(tensors, public, outputs, inputs)
        if kind == "dinov2" and scale:
            factor = tensors.take(f"{theirs}.{scale}.lambda1", hidden)
            own = {"weight": own["weight"] * factor[:, None], "bias": own["bias"] * factor}
        found |= {f"{ours}.{name}.{part}": tensor for part, tensor in own.items()}
    for name, public in (("attention_norm", attention_norm), ("ffn_norm", ffn_norm)):
        for part in ("weight", "bias"):
            found[f"{ours}.{name}.{part}"] = tensors.take(f"{public}.{part}", hidden)
    return found


def _linear(tensors: Tensors, name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
    """Return a linear map; one without a bias gets zeros."""
    weight = tensors.take(f"{name}.weight", outputs, inputs)
    has_bias = tensors.look(f"{name}.bias") is not None
    bias = tensors.take(f"{name}.bias", outputs) if has_bias else torch.zeros(outputs)
    return {"weight": weight, "bias": bias}
