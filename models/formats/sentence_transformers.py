"""Reads a folder of sentence-transformers: an encoder, a pooling, perhaps a projection.

Source: UKPLab/sentence-transformers 6.2, modules ``Transformer``, ``Pooling``, ``Dense`` and
``Normalize``. Our vectors always have unit length; a folder that says otherwise and compares by
something else than the cosine is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from models.families.exits import Exits
from models.files import read_json
from models.formats.folder import Fields, FormatError, Tensors
from models.formats.huggingface import CONFIG, Choices, ExitHead, assemble
from models.formats.known import check_known
from models.formats.model_types import MODEL_TYPES

MODULES = "modules.json"
_SETTINGS = "config_sentence_transformers.json"
# The first that holds anything counts, whatever the encoder is.
_LIMITS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_ROUTER = "router_config.json"
_KNOWN_SETTINGS = {
    "__version__",
    "model_type",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
    "truncate_dim",
    "requirements",
}
_KNOWN_LIMITS = {
    "max_seq_length",
    "do_lower_case",
    "transformer_task",
    "module_output_name",
    "modality_config",
    "query_length",
    "document_length",
    "query_expansion",
    "unpad_inputs",
    "processing_kwargs",
    "tokenizer_name_or_path",
    *(f"{part}_{end}" for part in ("model", "tokenizer", "config") for end in ("args", "kwargs")),
    "processor_kwargs",
}
_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
# How the public model computes, not what.
_HARMLESS_ARGUMENTS = {"attn_implementation", "torch_dtype", "dtype", "trust_remote_code"}
_KNOWN_DENSE = {
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "module_input_name",
    "module_output_name",
    "use_residual",
}

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
_KNOWN_POOLING = {
    "word_embedding_dimension",
    "embedding_dimension",
    "pooling_mode",
    "include_prompt",
    *_POOLING_FLAGS,
}
_ACTIVATIONS: dict[str, Literal["identity", "tanh"]] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
}
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
    check_known(settings, _KNOWN_SETTINGS)
    settings.require("model_type", "SentenceTransformer")
    settings.require("truncate_dim")
    if "Normalize" in modules:
        _check_normalize(Fields.read_if_there(modules["Normalize"] / CONFIG))
    else:
        # Only the cosine is the same for vectors of unit length.
        settings.require("similarity_fn_name", "cosine")
    pooling = Fields.read(modules["Pooling"] / CONFIG)
    check_known(pooling, _KNOWN_POOLING)
    prompts = _prompts(settings)
    if any(text != "{text}" for text in prompts.values()):
        pooling.require("include_prompt", True)
    said: Choices = {
        "pooling": _pooling(pooling),
        "prompts": prompts,
        "default_prompt": _default_prompt(settings),
    }
    limits = _limits(encoder)
    if limits.values.get("max_seq_length") is not None:
        said["max_length"] = limits.integer("max_seq_length")
    lowers = limits.flag("do_lower_case", default=False)
    fields = Fields.read(encoder / CONFIG)
    architecture = fields.pick("model_type", MODEL_TYPES)
    head = _head(modules["Dense"]) if "Dense" in modules else None
    both: Choices = {**said, **choices}
    tensors = Tensors.read(encoder)
    return assemble(encoder, name, fields, architecture, tensors, both, head, lowers)


def _limits(encoder: Path) -> Fields:
    """Return the settings of the encoder, checked, from the first file that holds any."""
    found = (Fields.read_if_there(encoder / name) for name in _LIMITS)
    limits = next((one for one in found if one.values), Fields(encoder / _LIMITS[0], {}))
    check_known(limits, _KNOWN_LIMITS)
    limits.require("transformer_task", "feature-extraction")
    limits.require("module_output_name", "token_embeddings")
    limits.require("modality_config", _TEXT_ONLY)
    limits.require("processing_kwargs", {})
    for field in ("query_length", "document_length", "query_expansion", "tokenizer_name_or_path"):
        limits.require(field)
    for field in limits.values:
        if field.endswith(("_args", "_kwargs")) and field != "processing_kwargs":
            inside = limits.within(field)
            check_known(inside, _HARMLESS_ARGUMENTS)
    return limits


def _check_normalize(fields: Fields) -> None:
    check_known(fields, ("module_input_name", "module_output_name"))
    for end in ("module_input_name", "module_output_name"):
        fields.require(end, "sentence_embedding")


def _default_prompt(settings: Fields) -> str | None:
    name = settings.values.get("default_prompt_name")
    if name is not None and not isinstance(name, str):
        raise settings.error("default_prompt_name", "a text")
    return name


def _modules(folder: Path) -> dict[str, Path]:
    """Return the folder of each module by its kind."""
    path = folder / MODULES
    entries: list[dict[str, Any]] = read_json(path, FormatError)
    try:
        types = [str(entry["type"]) for entry in entries]
        names = [str(entry["name"]) for entry in entries]
        # The path comes from a stranger's file; it must not lead out of the folder.
        parts = [Path(str(entry["path"])) for entry in entries]
        arguments = [entry.get("kwargs") for entry in entries]
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is not a list of modules: {error}") from None
    if len(set(names)) != len(names):
        raise FormatError(f"{path}: names={names}; allowed: a name of its own for each module")
    if any(arguments):
        raise FormatError(f"{path}: kwargs={arguments}; allowed: none")
    if (folder / _ROUTER).is_file():
        raise FormatError(f"{folder / _ROUTER} is not followed; allowed: no such file")
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
    if not isinstance(prompts, Mapping):
        raise settings.error("prompts", "a text by name")
    prompts = {name: "" if text is None else text for name, text in prompts.items()}
    if not all(isinstance(text, str) for text in prompts.values()):
        raise settings.error("prompts", "a text by name")
    return {name: f"{prefix}{{text}}" for name, prefix in prompts.items()}


def _head(folder: Path) -> ExitHead:
    """Read a Dense module; every exit gets a copy of it."""
    fields = Fields.read(folder / CONFIG)
    check_known(fields, _KNOWN_DENSE)
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

    return ExitHead(width, exits, activation)
