"""Reads folders of ``AutoModelForSequenceClassification``: text classifiers and cross-encoders.

One label is a score, more are classes. A cross-encoder reads two texts in one row; whether a model
was trained so, no file says. Scores are the public model's logits, without any activation.

Source: the modelling files of huggingface/transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.families.headed import Headed, HeadedConfig
from models.formats import known
from models.formats.folder import Fields, FormatError, Tensors
from models.formats.huggingface import CONFIG
from models.formats.known import check_known
from models.formats.model_types import MODEL_TYPES
from models.formats.tokenizer import read_tokenizer
from models.inputs.text import TextInput
from models.inputs.text_config import TextConfig
from models.nn.architecture import TransformerConfig
from models.nn.head import HeadLayer
from models.nn.pooling import Pooling

_Head: TypeAlias = tuple[tuple[HeadLayer, ...], list[dict[str, Tensor]], Pooling]
_WORDS = ("a", "b")  # two texts, to see what stands between them


def read(folder: Path, name: str, *, pair: bool = False, max_length: int | None = None) -> Headed:
    """Read a folder as a model of one task, in evaluation mode, with its tokenizer.

    Args:
        folder: With ``config.json``, ``model.safetensors`` or its shards, and ``tokenizer.json``.
        name: What clients call the model.
        pair: Whether it compares two texts, ``query`` and ``document``. A quarter of the longest
            row is for the first.
        max_length: Most tokens of a row; None for what the files say.

    Raises:
        FormatError: If a file is missing, or says something that cannot be expressed exactly.
        ValueError: If the choices do not fit the model.
    """
    fields = Fields.read(folder / CONFIG)
    kind = _checked(fields)
    architecture, labels = MODEL_TYPES[kind], labels_of(fields)
    tokenizer, its_length = read_tokenizer(folder, fields, False)
    encoder = architecture.config(fields, None, max_length or its_length)
    longest = min(max_length or its_length or encoder.max_positions, encoder.max_positions)
    tensors = Tensors.read(folder)
    layers, weights, pooling = _HEADS[kind](fields, tensors, encoder, len(labels))
    tensors.strip(architecture.prefixes, f"{architecture.token}.weight")
    between, has_types = _between(folder, tokenizer) if pair else (None, False)
    types = torch.zeros(encoder.hidden)
    table = tensors.look(f"{architecture.types}.weight") if architecture.types else None
    if table is not None and len(table) > 1 and has_types and _gives_types(folder, kind):
        types = table[1] - table[0]
    state = architecture.state(tensors, encoder, fields)
    tensors.finish(architecture.ignored)
    first = longest // 4 if pair else longest
    config = HeadedConfig(
        encoder=encoder,
        text=TextConfig(max_length=first),
        second=TextConfig(max_length=longest - first + (between is None)) if pair else None,
        between=between,
        depths=(encoder.layers,),
        pooling=pooling,
        exit_norm="final" if encoder.norm == "pre" else "none",
        head=layers,
        **_task(labels),
    )
    for i, own in enumerate(weights):
        state |= {f"exits.{encoder.layers}.head.{i}.{k}": t for k, t in own.items()}
    if pair:
        state["embedding.second"] = types
    model = Headed(name, config)
    model.load_state_dict(state)
    text = TextInput(TextConfig(max_length=first), tokenizer)
    model.take(text, TextInput(config.second, tokenizer) if config.second else None)
    return model.eval().requires_grad_(False)


def _task(labels: tuple[str, ...]) -> dict[str, Any]:
    if len(labels) == 1:
        return {"task": "score", "kind": "score", "metric": "spearman"}
    return {"task": "label", "kind": "classes", "metric": "accuracy", "labels": labels}


def _checked(fields: Fields) -> str:
    """Return the kind of model; FormatError if a field cannot be followed."""
    check_known(fields, known.CONFIG)
    kind = fields.values.get("model_type")
    if kind not in _HEADS:
        raise fields.error("model_type", f"one of {list(_HEADS)}, for classifiers of text")
    fields.require("problem_type", "single_label_classification", "regression")
    fields.require("pruned_heads", {}, [])
    fields.require("quantization_config")
    fields.require("is_encoder_decoder", False)
    return str(kind)


def _gives_types(folder: Path, kind: str) -> bool:
    """Return whether the public tokenizer tells a model which text a token is of."""
    settings = Fields.read_if_there(folder / "tokenizer_config.json").values
    names = settings.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    named = str(settings.get("tokenizer_class") or ("BertTokenizer" if kind == "bert" else ""))
    return named.removesuffix("Fast") == "BertTokenizer"


def labels_of(fields: Fields) -> tuple[str, ...]:
    """Return the names of the classes, two by default.

    Raises:
        FormatError: If they are no names by number.
    """
    named: Any = fields.values.get("id2label")
    if named is None:
        return tuple(f"LABEL_{i}" for i in range(fields.integer("num_labels", 2)))
    try:
        return tuple(str(named[str(i)]) for i in range(len(named)))
    except (KeyError, TypeError):
        raise fields.error("id2label", "a name for each number from 0 on") from None


def _between(folder: Path, tokenizer: Tokenizer) -> tuple[int | None, bool]:
    """Return the token between two texts, None if there is none, and whether types tell them apart.

    Raises:
        FormatError: If a pair is not the first text and then the second one's rest.
    """
    tokenizer.no_padding()
    tokenizer.no_truncation()
    first, second = (tokenizer.encode(word).ids for word in _WORDS)
    pair = tokenizer.encode(*_WORDS)
    rest = second[1:]
    middle = pair.ids[len(first) : len(pair.ids) - len(rest)]
    if pair.ids != [*first, *middle, *rest] or len(middle) > 1:
        raise FormatError(
            f"{folder}: its tokenizer makes {pair.ids} of two texts that are {first} and {second}; "
            "allowed: the second after the first, at most one token between them"
        )
    return (middle[0] if middle else None), any(pair.type_ids)


def _linear(tensors: Tensors, name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
    return {
        "weight": tensors.take(f"{name}.weight", outputs, inputs),
        "bias": tensors.take(f"{name}.bias", outputs),
    }


def _of_two(hidden: str, last: str, activation: str) -> Callable[..., _Head]:
    """Return a reader of two linear layers on the first token."""

    def head(fields: Fields, tensors: Tensors, encoder: TransformerConfig, labels: int) -> _Head:
        width = encoder.hidden
        layers = (
            HeadLayer("linear", width, activation),  # type: ignore[arg-type]  # one of three below
            HeadLayer("linear", labels),
        )
        weights = [
            _linear(tensors, hidden, width, width),
            _linear(tensors, last, labels, width),
        ]
        return layers, weights, "cls"

    return head


def _modernbert(fields: Fields, tensors: Tensors, encoder: TransformerConfig, labels: int) -> _Head:
    """Read a dense layer, a norm and a classifier."""
    width = encoder.hidden
    pooling: Pooling = fields.pick("classifier_pooling", {"cls": "cls", "mean": "mean"}, "cls")
    fields.require("classifier_activation", "gelu")
    has_bias = fields.flag("classifier_bias", default=False)
    dense = {
        "weight": tensors.take("head.dense.weight", width, width),
        "bias": tensors.take("head.dense.bias", width) if has_bias else torch.zeros(width),
    }
    norm = {
        "weight": tensors.take("head.norm.weight", width),
        "bias": tensors.take("head.norm.bias", width) if encoder.norm_bias else torch.zeros(width),
    }
    layers = (
        HeadLayer("linear", width, "gelu"),
        HeadLayer("norm", width, eps=encoder.norm_eps),
        HeadLayer("linear", labels),
    )
    return layers, [dense, norm, _linear(tensors, "classifier", labels, width)], pooling


_ROBERTA = _of_two("classifier.dense", "classifier.out_proj", "tanh")
_HEADS: dict[str, Callable[..., _Head]] = {
    "bert": _of_two("bert.pooler.dense", "classifier", "tanh"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": _ROBERTA,
    "distilbert": _of_two("pre_classifier", "classifier", "relu"),
    "modernbert": _modernbert,
}
