"""Reads folders of ``AutoModelForSequenceClassification``: text classifiers and cross-encoders.

One label is a score, more are classes. A cross-encoder reads two texts in one row; whether a model
was trained so, no file says. Scores are the public model's logits, without any activation.

Source: the modelling files of huggingface/transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
_OF_EXITS = frozenset({"num_output_layers", "max_output_layers"})  # of ElasticBERT
_SAME_AS = {"elasticbert": "bert"}
_WORDS = ("a", "b")  # two texts, to see what stands between them


@dataclass(frozen=True)
class Nested:
    """What can be chosen of a model that was trained for it; no file says so.

    Attributes:
        heads: Shares of the heads, ascending, the last 1.
        ffn: Of the feed-forward units.
        tied: Whether each share of the heads goes with its like of the units only.
        kept: Per depth, the layers that are run; None: all of them, or with exits the first.
        depths: First layers after which the one head may come, with the final norm where there is
            one, ascending, the last all of them; None: those of the others.
        exits: Names of the two linear layers after each layer, with its number in place of ``{}``;
            None: one head for all depths.
        prefix: Of the encoder's tensors.
    """

    heads: tuple[float, ...] = (1.0,)
    ffn: tuple[float, ...] = (1.0,)
    tied: bool = False
    kept: tuple[tuple[int, ...], ...] | None = None
    depths: tuple[int, ...] | None = None
    exits: tuple[str, str] | None = None
    prefix: str | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """Of `HeadedConfig`."""
        names = ("heads", "ffn", "tied", "kept")
        return {name: getattr(self, name) for name in names}


def read(
    folder: Path,
    name: str,
    *,
    pair: bool = False,
    max_length: int | None = None,
    nested: Nested = Nested(),  # immutable
) -> Headed:
    """Read a folder as a model of one task, in evaluation mode, with its tokenizer.

    Args:
        folder: With ``config.json``, ``model.safetensors`` or its shards, and ``tokenizer.json``.
        name: What clients call the model.
        pair: Whether it compares two texts, ``query`` and ``document``. A quarter of the longest
            row is for the first.
        max_length: Most tokens of a row; None for what the files say.
        nested: What can be chosen.

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
    depths, layers, exits, pooling = _exits(kind, fields, tensors, encoder, len(labels), nested)
    if nested.prefix is not None:
        architecture = replace(architecture, prefixes=(nested.prefix,))
    tensors.strip(architecture.prefixes, f"{architecture.token}.weight")
    between, has_types = _between(folder, tokenizer) if pair else (None, False)
    table = tensors.look(f"{architecture.types}.weight") if architecture.types else None
    tells = table is not None and len(table) > 1 and has_types and _gives_types(folder, kind)
    state = architecture.state(tensors, encoder, fields)
    tensors.finish(architecture.ignored)
    first, second = _texts(longest, between, pair)
    config = HeadedConfig(
        encoder=encoder,
        text=first,
        second=second,
        between=between,
        depths=depths,
        pooling=pooling,
        exit_norm="final" if encoder.norm == "pre" else "none",
        head=layers,
        **_task(labels),
        **nested.fields,
    )
    state |= exits
    if pair:
        told = table if table is not None and tells else torch.zeros(2, encoder.hidden)
        state["embedding.second"] = told[1] - told[0]
    model = Headed(name, config)
    model.load_state_dict(state)
    model.take(TextInput(first, tokenizer), TextInput(second, tokenizer) if second else None)
    return model.eval().requires_grad_(False)


def _exits(
    kind: str,
    fields: Fields,
    tensors: Tensors,
    encoder: TransformerConfig,
    labels: int,
    nested: Nested,
) -> tuple[tuple[int, ...], tuple[HeadLayer, ...], dict[str, Tensor], Pooling]:
    """Return the depths, the layers of a head, the tensors of all exits, and the pooling."""
    if nested.exits is not None:
        depths = tuple(range(1, encoder.layers + 1))
        hidden, last = nested.exits
        found = [
            _of_two(hidden.format(i), last.format(i), "tanh")(fields, tensors, encoder, labels)
            for i in range(encoder.layers)
        ]
        weights_of = dict(zip(depths, (weights for _, weights, _ in found), strict=True))
        return depths, found[0][0], _under_our_names(weights_of), "cls"
    layers, weights, pooling = _HEADS[kind](fields, tensors, encoder, labels)
    depths = nested.depths or (encoder.layers,)
    if nested.kept is not None:
        depths = tuple(map(len, nested.kept))
    return depths, layers, _under_our_names(dict.fromkeys(depths, weights)), pooling


def _under_our_names(weights: Mapping[int, Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    return {
        f"exits.{depth}.head.{i}.{kind}": tensor
        for depth, layers in weights.items()
        for i, own in enumerate(layers)
        for kind, tensor in own.items()
    }


def _texts(longest: int, between: int | None, pair: bool) -> tuple[TextConfig, TextConfig | None]:
    """Return how long each text may be."""
    if not pair:
        return TextConfig(max_length=longest), None
    first = longest // 4
    return TextConfig(max_length=first), TextConfig(max_length=longest - first + (between is None))


def _task(labels: tuple[str, ...]) -> dict[str, Any]:
    if len(labels) == 1:
        return {"task": "score", "kind": "score", "metric": "spearman"}
    return {"task": "label", "kind": "classes", "metric": "accuracy", "labels": labels}


def _checked(fields: Fields) -> str:
    """Return the kind of model; FormatError if a field cannot be followed."""
    check_known(fields, known.CONFIG | _OF_EXITS)
    kind = _SAME_AS.get(str(fields.values.get("model_type")), fields.values.get("model_type"))
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
