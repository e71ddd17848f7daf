"""Reads a folder of sentence-transformers: an encoder, a pooling, what follows it.

Source: UKPLab/sentence-transformers 6.2, modules ``Transformer``, ``Pooling``, ``Dense``,
``LayerNorm``, ``Dropout`` and ``Normalize``. Our vectors always have unit length; a folder that
says otherwise and compares by something else than the cosine is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from models.families.exits import Exits
from models.files import read_json
from models.formats.folder import Fields, FormatError, Tensors
from models.formats.huggingface import CONFIG, Choices, ExitHead, assemble
from models.formats.known import check_known
from models.formats.model_types import MODEL_TYPES
from models.nn.head import HeadActivation, HeadLayer
from models.nn.pooling import Pooling

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

_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    "max": "max",
    "mean_sqrt_len_tokens": "sqrt",
    "weightedmean": "weighted",
}
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
ACTIVATIONS: dict[str, HeadActivation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.SiLU": "silu",
}
_ORDER = re.compile(r"Transformer Pooling( Dense| LayerNorm| Dropout)*( Normalize)?")
_ALLOWED = "Transformer, Pooling, then any of Dense, LayerNorm and Dropout, then perhaps Normalize"
_NEEDED = {  # what would have to be built for modules of the library that are refused
    "WordWeights": "a weight for each token of the vocabulary before the pooling",
    "WeightedLayerPooling": "a sum over layers, which no exit has",
    "CNN": "convolutions over tokens",
    "LSTM": "a recurrent layer over tokens",
    "StaticEmbedding": "an encoder without layers",
    "BoW": "an encoder without layers",
    "CLIPModel": "two towers, of text and of images",
    "SpladePooling": "vectors over the vocabulary",
    "Router": "one encoder for queries and one for documents",
}


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
    (_, encoder), (_, pooling_folder), *after = _modules(folder)
    settings = Fields.read_if_there(folder / _SETTINGS)
    check_known(settings, _KNOWN_SETTINGS)
    settings.require("model_type", "SentenceTransformer")
    settings.require("truncate_dim")
    if after and after[-1][0] == "Normalize":
        _check_normalize(Fields.read_if_there(after.pop()[1] / CONFIG))
    else:
        # Only the cosine is the same for vectors of unit length.
        settings.require("similarity_fn_name", "cosine")
    pooling = Fields.read(pooling_folder / CONFIG)
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
    head = _head([(kind, part) for kind, part in after if kind != "Dropout"])
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


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the kind and the folder of each module, in order."""
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
    if not _ORDER.fullmatch(" ".join(kinds)):
        needed = [f"; {kind} needs {_NEEDED[kind]}" for kind in kinds if kind in _NEEDED]
        raise FormatError(
            f"{path}: modules {', '.join(kinds)}; allowed: {_ALLOWED}{''.join(needed)}"
        )
    return [(kind, folder / part) for kind, part in zip(kinds, parts, strict=True)]


def _pooling(fields: Fields) -> Pooling | tuple[Pooling, ...]:
    """Read the pooling in either spelling: names, or a flag for each; several are joined."""
    mode = fields.values.get("pooling_mode")
    if mode is None:
        mode = [name for flag, name in _POOLING_FLAGS.items() if fields.flag(flag, default=False)]
        mode = mode or ["mean"]
    elif isinstance(mode, str):
        mode = [mode]
    if not isinstance(mode, list) or not mode or any(one not in _POOLINGS for one in mode):
        raise FormatError(
            f"{fields.path}: pooling_mode={mode!r}; allowed: one or more of {list(_POOLINGS)}"
        )
    found = tuple(_POOLINGS[one] for one in mode)
    return found[0] if len(found) == 1 else found


def _prompts(settings: Fields) -> dict[str, str]:
    prompts = settings.values.get("prompts") or {}
    if not isinstance(prompts, Mapping):
        raise settings.error("prompts", "a text by name")
    prompts = {name: "" if text is None else text for name, text in prompts.items()}
    if not all(isinstance(text, str) for text in prompts.values()):
        raise settings.error("prompts", "a text by name")
    return {name: f"{prefix}{{text}}" for name, prefix in prompts.items()}


def _head(modules: Sequence[tuple[str, Path]]) -> ExitHead | None:
    """Read what follows the pooling; every exit gets a copy of it.

    A Dense that comes last is the projection, of which a shorter vector needs a part.
    """
    if not modules:
        return None
    read = [_dense(part) if kind == "Dense" else _norm(part) for kind, part in modules]
    last = read.pop() if modules[-1][0] == "Dense" else None

    def exits(depths: Sequence[int]) -> dict[str, Tensor]:
        parts = {f"head.{i}.{k}": t for i, (_, own) in enumerate(read) for k, t in own.items()}
        if last is not None:
            parts |= {f"projection.{k}": t for k, t in last[1].items()}
        return {f"exits.{d}.{name}": tensor for d in depths for name, tensor in parts.items()}

    layers = tuple(layer for layer, _ in read)
    if last is None:
        return ExitHead(None, exits, layers=layers)
    return ExitHead(last[0].width, exits, last[0].activation, layers=layers)


def _dense(folder: Path) -> tuple[HeadLayer, dict[str, Tensor]]:
    fields = Fields.read(folder / CONFIG)
    check_known(fields, _KNOWN_DENSE)
    tensors = Tensors.read(folder)
    width, inputs = fields.integer("out_features"), fields.integer("in_features")
    activation = fields.pick("activation_function", ACTIVATIONS, "torch.nn.modules.activation.Tanh")
    fields.require("use_residual", False)
    for end in ("module_input_name", "module_output_name"):
        fields.require(end, "sentence_embedding")
    weight = tensors.take("linear.weight", width, inputs)
    has_bias = fields.flag("bias", default=True)
    bias = tensors.take("linear.bias", width) if has_bias else torch.zeros(width)
    tensors.finish(())
    return HeadLayer("linear", width, activation), {"weight": weight, "bias": bias}


def _norm(folder: Path) -> tuple[HeadLayer, dict[str, Tensor]]:
    fields = Fields.read(folder / CONFIG)
    check_known(fields, ("dimension",))
    width, tensors = fields.integer("dimension"), Tensors.read(folder)
    state = {kind: tensors.take(f"norm.{kind}", width) for kind in ("weight", "bias")}
    tensors.finish(())
    return HeadLayer("norm", width), state
