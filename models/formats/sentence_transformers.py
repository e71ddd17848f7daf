"""Reads a folder of sentence-transformers: an encoder, a pooling, perhaps a projection.

Source: UKPLab/sentence-transformers 6.2, modules ``Transformer``, ``Pooling``, ``Dense`` and
``Normalize``. Our vectors always have unit length; a folder that says otherwise and compares by
something else than the cosine is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from models.families.exits import Exits
from models.formats.folder import Fields, FormatError, Tensors, check_tokenizer
from models.formats.huggingface import CONFIG, Choices, Head, assemble
from models.formats.model_types import MODEL_TYPES
from models.text import TOKENIZER

MODULES = "modules.json"
_SETTINGS = "config_sentence_transformers.json"
_BERT_SETTINGS = "sentence_bert_config.json"

Pooling = Literal["mean", "cls", "last"]
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, Literal["identity", "tanh"]] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
}
_DEFAULT_ACTIVATION = "torch.nn.modules.activation.Tanh"
_ORDERS = (
    ("Transformer", "Pooling"),
    ("Transformer", "Pooling", "Normalize"),
    ("Transformer", "Pooling", "Dense"),
    ("Transformer", "Pooling", "Dense", "Normalize"),
)


def read(folder: Path, name: str, **choices: Unpack[Choices]) -> Exits:
    """Read a folder as a multi-exit model, in evaluation mode, with its tokenizer.

    Args:
        folder: With ``modules.json`` and the folders that it names.
        name: What clients call the model.
        **choices: See `Choices`; what is given here replaces what the folder says.

    Raises:
        FormatError: If a file is missing, or says something that cannot be expressed exactly.
        ValueError: If the choices do not fit the model.
    """
    modules = _modules(folder)
    encoder = modules["Transformer"]
    settings = Fields.read_if_there(folder / _SETTINGS)
    if "Normalize" not in modules:
        # Only the cosine is the same for vectors of unit length.
        settings.require("similarity_fn_name", "cosine")
    pooling = Fields.read(modules["Pooling"] / CONFIG)
    prompts = _prompts(settings)
    if any(text != "{text}" for text in prompts.values()):
        pooling.require("include_prompt", True)
    said: Choices = {
        "pooling": _pooling(pooling),
        "prompts": prompts,
        "default_prompt": settings.values.get("default_prompt_name"),
    }
    limits = Fields.read_if_there(encoder / _BERT_SETTINGS)
    if limits.values.get("max_seq_length") is not None:
        said["max_length"] = limits.integer("max_seq_length")
    limits.require("transformer_task", "feature-extraction")
    limits.require("module_output_name", "token_embeddings")
    for field in ("query_length", "document_length"):
        limits.require(field)
    if limits.flag("do_lower_case", default=False) and not _lowers(encoder):
        raise limits.error("do_lower_case", f"false, unless {TOKENIZER} itself lowers the case")
    fields = Fields.read(encoder / CONFIG)
    architecture = fields.pick("model_type", MODEL_TYPES)
    head = _head(modules["Dense"]) if "Dense" in modules else None
    both: Choices = {**said, **choices}
    return assemble(encoder, name, fields, architecture, Tensors.read(encoder), both, head)


def encoder_folder(folder: Path) -> Path:
    """Return where the encoder and its tokenizer are.

    Raises:
        FormatError: If the modules are not of a kind that can be read.
    """
    return _modules(folder)["Transformer"]


def _modules(folder: Path) -> dict[str, Path]:
    """Return the folder of each module by its kind."""
    path = folder / MODULES
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_bytes())
        types = [str(entry["type"]) for entry in entries]
        # The path comes from a stranger's file; it must not lead out of the folder.
        parts = [Path(str(entry["path"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is not a list of modules: {error}") from None
    for type_, part in zip(types, parts, strict=True):
        if not type_.startswith("sentence_transformers."):
            raise FormatError(f"{path}: type={type_!r} is code of its own, which is refused")
        if part.is_absolute() or ".." in part.parts:
            raise FormatError(f"{path}: path={str(part)!r} leads out of the folder")
    kinds = tuple(type_.rpartition(".")[2] for type_ in types)
    if kinds not in _ORDERS:
        allowed = "; ".join(", ".join(order) for order in _ORDERS)
        raise FormatError(f"{path}: modules {', '.join(kinds)}; allowed: {allowed}")
    return {kind: folder / part for kind, part in zip(kinds, parts, strict=True)}


def _pooling(fields: Fields) -> Pooling:
    """Read the pooling in either spelling: one name, or a flag for each."""
    mode = fields.values.get("pooling_mode")
    if mode is None:
        mode = [name for flag, name in _POOLING_FLAGS.items() if fields.flag(flag, default=False)]
        mode = mode or ["mean"]
    elif isinstance(mode, str):
        mode = [mode]
    if not isinstance(mode, list) or len(mode) != 1 or mode[0] not in _POOLINGS:
        raise FormatError(
            f"{fields.path}: pooling_mode={mode!r}; allowed: one of {list(_POOLINGS)}"
        )
    return _POOLINGS[mode[0]]


def _prompts(settings: Fields) -> dict[str, str]:
    prompts = settings.values.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(p, str) for p in prompts.values()):
        raise settings.error("prompts", "a text by name")
    return {name: f"{prefix}{{text}}" for name, prefix in prompts.items()}


def _lowers(folder: Path) -> bool:
    check_tokenizer(folder)
    normalizer = Fields.read(folder / TOKENIZER).values.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps)


def _head(folder: Path) -> Head:
    """Read a Dense module; every exit gets a copy of it."""
    fields = Fields.read(folder / CONFIG)
    tensors = Tensors.read(folder)
    width, inputs = fields.integer("out_features"), fields.integer("in_features")
    activation = fields.pick(
        "activation_function", _ACTIVATIONS, "torch.nn.modules.activation.Tanh"
    )
    fields.require("use_residual", False)
    for end in ("module_input_name", "module_output_name"):
        fields.require(end, "sentence_embedding")
    weight = tensors.take("linear.weight", width, inputs)
    has_bias = fields.flag("bias", default=True)
    bias = tensors.take("linear.bias", width) if has_bias else torch.zeros(width)
    tensors.finish(())

    def exits(depths: Sequence[int]) -> dict[str, Tensor]:
        parts = {"weight": weight, "bias": bias}
        return {f"exits.{d}.projection.{part}": t for d in depths for part, t in parts.items()}

    return Head(width, exits, activation)
