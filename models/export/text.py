"""A subnet of a text encoder as a folder that sentence-transformers and transformers read.

Constants of the original model were folded when it was read, so every encoder with learned
positions and norms after the residual sums is a BERT, whatever it was. Where transformers has no
size for fewer heads, the absent ones are heads of zeros: the same answers, at the cost of all.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from models.export.encoder import narrowed, sliced, under_public_names, with_absent_heads
from models.export.parts import WEIGHTS, Folder
from models.export.public import PUBLIC, Public
from models.families.exits import Exits
from models.formats.model_types import MODEL_TYPES
from models.formats.sentence_transformers import ACTIVATIONS
from models.inputs.text import TOKENIZER, TextInput
from models.nn.architecture import TransformerConfig
from models.nn.head import HeadActivation
from models.nn.pooling import Pooling, poolings_of
from models.space import Subnet

_TYPES = {
    "Transformer": "sentence_transformers.models.Transformer",
    "Pooling": "sentence_transformers.models.Pooling",
    "Dense": "sentence_transformers.models.Dense",
    "LayerNorm": "sentence_transformers.models.LayerNorm",
    "Normalize": "sentence_transformers.models.Normalize",
}
_Module: TypeAlias = tuple[str, dict[str, Any], dict[str, Tensor]]
"""Its kind, its configuration and its tensors."""
_SEVERAL = {"mean_sqrt_len": "mean_sqrt_len_tokens"}
_POOLINGS: dict[Pooling, str] = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "sqrt": "mean_sqrt_len_tokens",
    "weighted": "weightedmean_tokens",
    "last": "lasttoken",
}
_PADS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")


def write_static(model: Exits, folder: Folder) -> None:
    """Write the tokenizer alone: public static embeddings leave its special tokens out."""
    (folder.path / TOKENIZER).write_text(model.text.to_json())
    folder.remark("the static exit has no layout of safetensors; the ONNX file has all weights")


def write(model: Exits, subnet: Subnet, folder: Folder) -> None:
    """Write the subnet's encoder, pooling, projection and tokenizer.

    Without a public layout, its tensors under our own names.
    """
    (folder.path / TOKENIZER).write_text(model.text.to_json())
    groups, units = model.widths(subnet)
    depth, dim = int(subnet["depth"]), int(subnet["dim"])
    encoder = narrowed(model.config.encoder, depth, groups, units)
    state = sliced(model, depth, groups, units)
    found, why = _public(model, encoder, depth)
    if found is None:
        folder.layout = "safetensors"
        folder.write_tensors({**state, **_exit_state(model, depth, dim)})
        folder.write_json("config.json", {"encoder": vars(encoder), "dim": dim})
        folder.remark(f"transformers has no layout for this encoder: {why}")
        return
    name, public = found
    if not public.has_head_dim and encoder.heads < model.config.encoder.heads:
        state = with_absent_heads(state, encoder, model.config.encoder)
        absent = model.config.encoder.heads - encoder.heads
        encoder = replace(
            encoder, heads=model.config.encoder.heads, kv_heads=model.config.encoder.kv_heads
        )
        folder.remark(
            f"transformers' {name} has no fewer heads than hidden size over head size. {absent} "
            f"heads of each layer in {WEIGHTS} are zeros: the answers are the same, and only the "
            "ONNX file is faster for it"
        )
    pad, pad_id = pad_token(model.text)
    config = public.config(encoder) | {
        "architectures": [public.class_name],
        "model_type": name,
        "vocab_size": encoder.vocab_size,
        "pad_token_id": pad_id,
    }
    folder.write_json("config.json", config)
    folder.write_tensors(under_public_names(MODEL_TYPES[name], state, encoder))
    write_tokenizer_config(pad, model.config.text.max_length, folder)
    _write_modules(model, depth, dim, folder)
    folder.layout = f"sentence-transformers, transformers ({name})"
    folder.card = [
        "## This folder",
        "",
        "A folder of sentence-transformers: its modules give the vector that the server gives.",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'SentenceTransformer("FOLDER").encode(["a text"])',
        "```",
        "",
        (
            f"For the ONNX file: `{TOKENIZER}`, texts cut to {model.config.text.max_length} tokens "
            "and padded at the end. Vectors have unit length."
        ),
    ]


def _public(
    model: Exits, encoder: TransformerConfig, depth: int
) -> tuple[tuple[str, Public] | None, str]:
    """Return the public layout of an encoder, or why there is none."""
    config = model.config
    if config.exit_norm == "own":
        return None, "the exit has a norm of its own, which acts on tokens"
    if encoder.norm == "pre" and (
        config.exit_norm == "none" or (config.exit_norm == "last" and depth < config.encoder.layers)
    ):
        return None, "its last hidden state is not normalised"
    for name, public in PUBLIC.items():
        if public.fits(encoder) and (name != "mpnet" or _is_mpnet(model, depth)):
            return (name, public), ""
    return None, "no architecture has these norms, positions and feed-forward layers"


def _is_mpnet(model: Exits, depth: int) -> bool:
    """Return whether all layers share their biases, and texts are padded with token 1."""
    state = model.state_dict()
    first, *rest = (state[f"layers.{i}.attention.relative_bias"] for i in range(depth))
    return pad_token(model.text)[1] == 1 and all(torch.equal(first, one) for one in rest)


def _exit_state(model: Exits, depth: int, dim: int) -> dict[str, Tensor]:
    """Return the tensors of an exit under our names, cut to its dimensions."""
    prefix = f"exits.{depth}."
    state = {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}
    return {k: v[:dim] if ".projection." in k else v for k, v in state.items()}


def _after_pooling(model: Exits, depth: int, dim: int) -> list[_Module]:
    """Return the modules between the pooling and the normalisation."""
    config, state = model.config, model.state_dict()
    inputs = config.encoder.hidden * len(poolings_of(config.pooling))
    found = []
    for i, layer in enumerate(config.head):
        own = {kind: state[f"exits.{depth}.head.{i}.{kind}"] for kind in ("weight", "bias")}
        if layer.kind == "linear":
            found.append(_dense(own, layer.activation))
        else:
            named = {f"norm.{kind}": tensor for kind, tensor in own.items()}
            found.append(("LayerNorm", {"dimension": layer.width}, named))
        inputs = layer.width
    if config.projection:
        projection = model.projection(depth)
        weight, bias = projection.weight[:dim], projection.bias[:dim]
        if config.condition:
            # The exit's own embedding is the same for every text: a part of the bias.
            bias = bias + weight[:, inputs:] @ state[f"exits.{depth}.condition"]
        own = {"weight": weight[:, :inputs], "bias": bias}
        found.append(_dense(own, config.projection_activation))
    elif dim < inputs:
        found.append(_dense({"weight": torch.eye(dim, inputs), "bias": torch.zeros(dim)}))
    return found


def _dense(own: dict[str, Tensor], activation: HeadActivation = "identity") -> _Module:
    outputs, inputs = own["weight"].shape
    config = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": True,
        "activation_function": {kind: name for name, kind in ACTIVATIONS.items()}[activation],
    }
    return "Dense", config, {f"linear.{kind}": tensor for kind, tensor in own.items()}


def _write_modules(model: Exits, depth: int, dim: int, folder: Folder) -> None:
    config, kinds = model.config, ["Transformer", "Pooling"]
    ways = poolings_of(config.pooling)
    flags = {f"pooling_mode_{flag}": name in ways for name, flag in _POOLINGS.items()}
    # Flags are what every version reads; they do not say an order.
    names = [_POOLINGS[way].removesuffix("_token").removesuffix("_tokens") for way in ways]
    several = {"pooling_mode": [_SEVERAL.get(name, name) for name in names]}
    folder.write_json(
        "1_Pooling/config.json",
        {
            "word_embedding_dimension": config.encoder.hidden,
            **(flags if len(ways) == 1 else several),
            "include_prompt": True,
        },
    )
    for kind, said, tensors in _after_pooling(model, depth, dim):
        place = f"{len(kinds)}_{kind}"
        folder.write_json(f"{place}/config.json", said)
        folder.write_tensors(tensors, f"{place}/{WEIGHTS}")
        kinds.append(kind)
    kinds.append("Normalize")
    folder.write_json(
        "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": "" if kind == "Transformer" else f"{i}_{kind}",
                "type": _TYPES[kind],
            }
            for i, kind in enumerate(kinds)
        ],
    )
    folder.write_json(
        "sentence_bert_config.json",
        {"max_seq_length": config.text.max_length, "do_lower_case": False},
    )
    _write_prompts(model, folder)


def _write_prompts(model: Exits, folder: Folder) -> None:
    """Write the prompts that are prefixes; a remark has the others."""
    text = model.config.text
    prefixes = {
        name: template.removesuffix("{text}")
        for name, template in text.prompts.items()
        if template.endswith("{text}")
    }
    for name, template in text.prompts.items():
        if name not in prefixes:
            folder.remark(f"prompt {name!r} is no prefix, so the files lack it: {template!r}")
    default = text.default_prompt if text.default_prompt in prefixes else None
    folder.write_json(
        "config_sentence_transformers.json",
        {
            "prompts": prefixes,
            "default_prompt_name": default,
            "similarity_fn_name": "cosine",
        },
    )


def pad_token(text: TextInput) -> tuple[str, int]:
    """Return a token to pad with, and its id. Which one does not matter: padding is masked."""
    vocabulary: Any = json.loads(text.to_json())["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: tokens with their scores
        vocabulary = {entry[0]: i for i, entry in enumerate(vocabulary)}
    pairs: dict[str, int] = vocabulary
    for token in _PADS:
        if token in pairs:
            return token, pairs[token]
    token = min(pairs, key=lambda one: pairs[one])
    return token, pairs[token]


def write_tokenizer_config(pad: str, longest: int, folder: Folder, **more: Any) -> None:
    """Write what transformers must know of the tokenizer beside its file.

    Args:
        pad: Token to pad with.
        longest: Most tokens of a row.
        folder: To write to.
        more: Further fields.
    """
    values: dict[str, Any] = {
        # The class that leaves the tokenizer's file as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "pad_token": pad,
        "clean_up_tokenization_spaces": False,
        **more,
    }
    folder.write_json("tokenizer_config.json", values)
