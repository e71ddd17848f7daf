"""A subnet of an encoder with a head as a folder of transformers.

Constants of the original model were folded when it was read, so every post-norm encoder with two
linear layers on its first token is a BERT, and every image encoder without scales is a ViT or,
with two tokens before the patches, a DeiT.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from models.export.encoder import narrowed, sliced, under_public_names, with_absent_heads
from models.export.image import preprocessor
from models.export.parts import WEIGHTS, Folder
from models.export.public import PUBLIC, image_config
from models.export.text import pad_token, write_tokenizer_config
from models.families.headed import Headed
from models.formats.model_types import MODEL_TYPES
from models.formats.vision import PREPROCESSOR
from models.inputs.text import TOKENIZER
from models.nn.architecture import TransformerConfig
from models.space import Subnet

_QKV = ("query", "key", "value")


def write(model: Headed, subnet: Subnet, folder: Folder) -> None:
    """Write the subnet's encoder and head; a remark if transformers has no layout for them."""
    config = model.config
    whole, depth = config.encoder, int(subnet["depth"])
    groups = round(float(subnet["heads"]) * whole.kv_heads)
    units = round(float(subnet["ffn"]) * whole.ffn)
    encoder = narrowed(whole, depth, groups, units)
    why = _image_gap(model) if config.image is not None else _text_gap(model, encoder)
    if why:
        folder.remark(f"transformers has no layout for this model: {why}; the ONNX file has all")
        return
    state = sliced(model, depth, groups, units)
    if encoder.heads < whole.heads:
        state = with_absent_heads(state, encoder, whole)
        folder.remark(
            f"{whole.heads - encoder.heads} heads of each layer in {WEIGHTS} are zeros, as "
            "transformers has no fewer: only the ONNX file is faster for it"
        )
        encoder = replace(encoder, heads=whole.heads, kv_heads=whole.kv_heads)
    tensors = model.state_dict()
    head = [
        {kind: tensors[f"exits.{depth}.head.{i}.{kind}"] for kind in ("weight", "bias")}
        for i in range(len(config.head))
    ]
    if config.image is not None:
        _write_image(model, encoder, state, head, folder)
    else:
        _write_text(model, encoder, state, head, folder)


def _labels(model: Headed) -> dict[str, Any]:
    labels = model.config.labels or ("LABEL_0",)
    found: dict[str, Any] = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if model.config.kind == "score":
        found["problem_type"] = "regression"
    return found


def _text_gap(model: Headed, encoder: TransformerConfig) -> str:
    """Return why a classifier of texts is no BERT; nothing if it is one."""
    config = model.config
    if not PUBLIC["bert"].fits(encoder):
        return "its layers are no BERT's"
    kinds = [(layer.kind, layer.activation) for layer in config.head]
    hidden = config.head[0].width if config.head else 0
    if kinds != [("linear", "tanh"), ("linear", "identity")] or hidden != encoder.hidden:
        return "its head is not a tanh layer and a classifier"
    return "" if config.pooling == "cls" else "its head does not read the first token alone"


def _write_text(
    model: Headed,
    encoder: TransformerConfig,
    state: dict[str, Tensor],
    head: list[dict[str, Tensor]],
    folder: Folder,
) -> None:
    pad, pad_id = pad_token(model.text)
    tensors = {
        f"bert.{name}": tensor
        for name, tensor in under_public_names(MODEL_TYPES["bert"], state, encoder).items()
    }
    if "embedding.second" in state:
        types = torch.stack([torch.zeros(encoder.hidden), state["embedding.second"]])
        tensors["bert.embeddings.token_type_embeddings.weight"] = types
    for name, own in (("bert.pooler.dense", head[0]), ("classifier", head[1])):
        tensors |= {f"{name}.{kind}": tensor for kind, tensor in own.items()}
    folder.write_tensors(tensors)
    folder.write_json(
        "config.json",
        PUBLIC["bert"].config(encoder)
        | _labels(model)
        | {
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            "vocab_size": encoder.vocab_size,
            "pad_token_id": pad_id,
        },
    )
    (folder.path / TOKENIZER).write_text(model.text.to_json())
    names = ["input_ids", "token_type_ids", "attention_mask"]
    write_tokenizer_config(pad, model.config.longest, folder, model_input_names=names)
    _say(folder, "bert", "AutoModelForSequenceClassification")
    if model.config.second is not None:
        folder.remark(
            f"the server reads {model.config.text.max_length if model.config.text else 0} tokens "
            f"of the first text and {model.config.second.max_length} of the second"
        )


def _image_gap(model: Headed) -> str:
    """Return why a model of images is no ViT or DeiT; nothing if it is one."""
    config = model.config
    if config.kind != "classes" or len(config.head) != 1:
        return "it is no classifier of one layer"
    if config.pooling != "cls":
        return "its classifier reads the patches too"
    assert config.image is not None
    if config.image.prefix not in (1, 2):
        return f"{config.image.prefix} tokens stand before the patches"
    square = config.image.input.height == config.image.input.width
    return "" if square else "its images are not square"


def _write_image(
    model: Headed,
    encoder: TransformerConfig,
    state: dict[str, Tensor],
    head: list[dict[str, Tensor]],
    folder: Folder,
) -> None:
    image = model.config.image
    assert image is not None
    kind: Literal["vit", "deit"] = "vit" if image.prefix == 1 else "deit"
    prefix, hidden = state["embedding.prefix"], encoder.hidden
    patches = f"{kind}.embeddings.patch_embeddings.projection"
    # What was folded stays so: positions of the tokens before the patches are zeros.
    positions = torch.cat([torch.zeros(image.prefix, hidden), state["embedding.position"]])
    tensors = {
        f"{kind}.embeddings.cls_token": prefix[None, :1],
        f"{kind}.embeddings.position_embeddings": positions[None],
        f"{patches}.weight": state["embedding.weight"],
        f"{patches}.bias": torch.zeros(hidden),
    }
    if kind == "deit":
        tensors[f"{kind}.embeddings.distillation_token"] = prefix[None, 1:]
    for i in range(encoder.layers):
        tensors |= _layer(state, encoder, f"layers.{i}", f"{kind}.encoder.layer.{i}")
    for part in ("weight", "bias"):
        tensors[f"{kind}.layernorm.{part}"] = state[f"final_norm.{part}"]
        tensors[f"classifier.{part}"] = head[0][part]
    folder.write_tensors(tensors)
    folder.write_json("config.json", image_config(kind, encoder, image) | _labels(model))
    folder.write_json(PREPROCESSOR, preprocessor(image.input))
    _say(folder, kind, "AutoModelForImageClassification")


def _layer(
    state: dict[str, Tensor], encoder: TransformerConfig, ours: str, theirs: str
) -> dict[str, Tensor]:
    found = {}
    for kind, name in (("weight", "attention.qkv"), ("bias", "attention.qkv_bias")):
        parts = torch.split(state[f"{ours}.{name}"], encoder.head_dim, dim=1)
        for one, part in zip(_QKV, parts, strict=True):
            found[f"{theirs}.attention.attention.{one}.{kind}"] = part.flatten(0, 1)
    for name, public in (
        ("attention.out", "attention.output.dense"),
        ("ffn.up", "intermediate.dense"),
        ("ffn.down", "output.dense"),
        ("attention_norm", "layernorm_before"),
        ("ffn_norm", "layernorm_after"),
    ):
        for kind in ("weight", "bias"):
            found[f"{theirs}.{public}.{kind}"] = state[f"{ours}.{name}.{kind}"]
    return found


def _say(folder: Folder, kind: str, class_name: str) -> None:
    folder.layout = f"transformers ({kind})"
    folder.card = [
        "## This folder",
        "",
        "A folder of transformers: its logits are the server's.",
        "",
        "```python",
        f"from transformers import {class_name}",
        "",
        f'{class_name}.from_pretrained("FOLDER")',
        "```",
    ]
