"""Reads AutoFormer supernets as `torch.save` or safetensors wrote them.

No tensor says what can be chosen: that is the reader's argument. Rows of queries, keys and values
are interleaved in the file, one of each in turn, and their biases are not: a narrower layer takes a
prefix of the bias and cuts it in three. Files may be wider than the largest choice.

Source: Chen et al. 2021, AutoFormer, arXiv 2107.00651; names of tensors as microsoft/Cream has
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.families.autoformer import AutoFormer, AutoFormerConfig
from models.formats.convolutional import IMAGENET, StateDict, labels_of, read_state
from models.formats.folder import FormatError
from models.inputs.image import ImageInput
from models.nn.patches import PatchConfig

_PATCHES = "patch_embed_super.proj"
_TABLES = {"rows": "embeddings_table_v", "columns": "embeddings_table_h"}


def read(
    path: Path,
    name: str,
    *,
    embeds: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    ratios: Sequence[float],
    labels: Sequence[str] | None = None,
    image: ImageInput = IMAGENET,
    pooled: bool = True,
) -> AutoFormer:
    """Read a file, in evaluation mode.

    Args:
        path: Of the file.
        name: What clients call the model.
        embeds: Widths of the embedding that it was trained for, ascending.
        depths: Numbers of layers, likewise.
        heads: Of each layer, likewise.
        ratios: Feed-forward units by the width of the embedding, likewise.
        labels: Class names; None for numbers.
        image: Size and normalisation of the images.
        pooled: Whether the mean over patches is classified, as in the published supernets.

    Raises:
        FormatError: If a tensor is missing, too narrow for the choices, or not part of the model.
        ValueError: If the choices make no model.
    """
    state = read_state(path)
    wide, _, size, _ = state.shape(f"{_PATCHES}.weight", 4)
    inner = state.shape("blocks.0.attn.proj.weight", 2)[1]
    places, head_dim = state.shape(f"blocks.0.attn.rel_pos_embed_k.{_TABLES['rows']}", 2)
    count = state.rows("head.weight")
    config = AutoFormerConfig(
        labels_of(labels, count),
        PatchConfig(image, size),
        tuple(embeds),
        tuple(depths),
        tuple(heads),
        tuple(ratios),
        head_dim=head_dim,
        farthest=places // 2 - 1,
        pooled=pooled,
    )
    layers, ffn = state.count("blocks."), state.rows("blocks.0.fc1.weight")
    _check(path, config, {"embeds": wide, "depths": layers, "heads": inner, "ratios": ffn})
    ours = _embedding(state, config, wide)
    for i in range(layers):
        own = _layer(state, i, config, (wide, inner, ffn, places))
        if i < config.depths[-1]:
            ours |= {f"layers.{i}.{part}": tensor for part, tensor in own.items()}
    state.finish()
    model = AutoFormer(name, config)
    model.load_state_dict({part: tensor.clone() for part, tensor in ours.items()})
    return model.eval().requires_grad_(False)


def _check(path: Path, config: AutoFormerConfig, there: Mapping[str, int]) -> None:
    """Refuse choices that ask for more than there is, by the name of the choice; FormatError."""
    asked = {
        "embeds": config.embeds[-1],
        "depths": config.depths[-1],
        "heads": config.heads[-1] * config.head_dim,
        "ratios": int(config.embeds[-1] * config.ratios[-1]),
    }
    for what, most in there.items():
        if asked[what] > most:
            raise FormatError(f"{path}: {what} ask for {asked[what]}; the file has {most}")


def _embedding(state: StateDict, config: AutoFormerConfig, wide: int) -> dict[str, Tensor]:
    embed, size, tokens = config.embeds[-1], config.image.size, config.image.tokens
    count = len(config.labels)
    return {
        "embedding.weight": state.take(f"{_PATCHES}.weight", wide, 3, size, size)[:embed],
        "embedding.bias": state.take(f"{_PATCHES}.bias", wide)[:embed],
        "embedding.first": state.take("cls_token", 1, 1, wide)[0, 0, :embed],
        "embedding.position": state.take("pos_embed", 1, tokens, wide)[0, :, :embed],
        "norm.weight": state.take("norm.weight", wide)[:embed],
        "norm.bias": state.take("norm.bias", wide)[:embed],
        "classifier.weight": state.take("head.weight", count, wide)[:, :embed],
        "classifier.bias": state.take("head.bias", count),
    }


def _layer(
    state: StateDict, i: int, config: AutoFormerConfig, sizes: tuple[int, int, int, int]
) -> dict[str, Tensor]:
    """Return a layer's tensors under our names; rows of queries, keys and values apart."""
    wide, inner, ffn, places = sizes
    place, head_dim = f"blocks.{i}", config.head_dim
    embed, units = config.embeds[-1], int(config.embeds[-1] * config.ratios[-1])
    kept = config.heads[-1] * head_dim
    qkv = state.take(f"{place}.attn.qkv.weight", 3 * inner, wide)[: 3 * kept, :embed]
    found = {
        "query": qkv[0::3],
        "key": qkv[1::3],
        "value": qkv[2::3],
        "qkv_bias": _bias(state, f"{place}.attn.qkv", 3 * inner)[: 3 * kept],
        "out": state.take(f"{place}.attn.proj.weight", wide, inner)[:embed, :kept],
        "out_bias": state.take(f"{place}.attn.proj.bias", wide)[:embed],
        "up": state.take(f"{place}.fc1.weight", ffn, wide)[:units, :embed],
        "up_bias": state.take(f"{place}.fc1.bias", ffn)[:units],
        "down": state.take(f"{place}.fc2.weight", wide, ffn)[:embed, :units],
        "down_bias": state.take(f"{place}.fc2.bias", wide)[:embed],
    }
    for ours, theirs in (("attention_norm", "attn_layer_norm"), ("ffn_norm", "ffn_layer_norm")):
        for part in ("weight", "bias"):
            found[f"{ours}.{part}"] = state.take(f"{place}.{theirs}.{part}", wide)[:embed]
    for ours, theirs in (("key", "rel_pos_embed_k"), ("value", "rel_pos_embed_v")):
        for part, table in _TABLES.items():
            name = f"{place}.attn.{theirs}.{table}"
            found[f"{ours}_{part}"] = state.take(name, places, head_dim)
    return found


def _bias(state: StateDict, name: str, rows: int) -> Tensor:
    """Return a bias; zeros where the file has none."""
    return state.take(f"{name}.bias", rows) if state.has(f"{name}.bias") else torch.zeros(rows)
