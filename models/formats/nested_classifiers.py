"""Reads classifiers that were trained to be cut: DynaBERT, ElasticBERT, MatFormer, shared exits.

Their folders look like those of `models.formats.sequence_classifiers`; what can be chosen is not in
them. Non-gated units are left out with their bias, and the bias of the map back stays whole.

Sources: Hou et al. 2020, DynaBERT, arXiv 2004.04037; Liu et al. 2022, ElasticBERT, arXiv
2110.07038, for a head after each layer; Devvrit et al. 2024, MatFormer, arXiv 2310.07707, for
nested feed-forward layers; Elhoushi et al. 2024, LayerSkip, arXiv 2404.16710, and Valipour et al.
2023, SortedNet, arXiv 2309.00255, for exits that share the final norm and the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from pathlib import Path

from models.families.headed import Headed
from models.formats import sequence_classifiers
from models.formats.folder import Fields, FormatError
from models.formats.huggingface import CONFIG
from models.formats.sequence_classifiers import Nested

DYNABERT_WIDTHS, DYNABERT_DEPTHS = (0.25, 0.5, 0.75, 1.0), (0.5, 0.75, 1.0)
MATFORMER_SIZES = (0.125, 0.25, 0.5, 1.0)
_POOLERS = ("elasticbert.encoder.pooler.{}.dense", "classifiers.{}")


def read_dynabert(
    folder: Path,
    name: str,
    *,
    widths: Sequence[float] = DYNABERT_WIDTHS,
    depths: Sequence[float] = DYNABERT_DEPTHS,
    pair: bool = False,
    max_length: int | None = None,
) -> Headed:
    """Read a DynaBERT: width multipliers for heads and units at once, and depth multipliers.

    Of the layers, those are kept that ``floor(i / depth)`` names, which are not the first ones.

    Args:
        folder: As `sequence_classifiers.read` takes it.
        name: What clients call the model.
        widths: That it was trained for, ascending, the last 1.
        depths: Likewise.
        pair: Whether it compares two texts.
        max_length: Most tokens of a row; None for what the files say.

    Raises:
        FormatError: If the folder cannot be read exactly, or a width leaves no head.
        ValueError: If the choices do not fit the model.
    """
    fields = Fields.read(folder / CONFIG)
    heads, ffn = fields.integer("num_attention_heads"), fields.integer("intermediate_size")
    layers = fields.integer("num_hidden_layers")
    # The share of whole heads holds for the units too, which are cut off after the point.
    shares = list(dict.fromkeys(round(width * heads) / heads for width in widths))
    if not shares or min(shares) <= 0:
        raise FormatError(
            f"{fields.path}: widths={list(widths)} of {heads} heads; allowed: those that leave one"
        )
    return sequence_classifiers.read(
        folder,
        name,
        pair=pair,
        max_length=max_length,
        nested=Nested(
            heads=tuple(shares),
            ffn=tuple(int(share * ffn) / ffn for share in shares),
            tied=True,
            kept=tuple(kept_layers(layers, depth) for depth in depths),
        ),
    )


def kept_layers(layers: int, depth: float) -> tuple[int, ...]:
    """Return the layers that a depth multiplier keeps."""
    return tuple(floor(i / depth) for i in range(round(depth * layers)))


def read_elasticbert(
    folder: Path, name: str, *, pair: bool = False, max_length: int | None = None
) -> Headed:
    """Read an ElasticBERT classifier: a pooler and a classifier after each layer.

    Args:
        folder: As `sequence_classifiers.read` takes it, with ``model_type`` ``elasticbert``.
        name: What clients call the model.
        pair: Whether it compares two texts.
        max_length: Most tokens of a row; None for what the files say.

    Raises:
        FormatError: If the folder cannot be read exactly.
    """
    fields = Fields.read(folder / CONFIG)
    layers = fields.integer("num_hidden_layers")
    fields.require("num_output_layers", layers)
    nested = Nested(exits=_POOLERS, prefix="elasticbert.")
    return sequence_classifiers.read(folder, name, pair=pair, max_length=max_length, nested=nested)


def read_matformer(
    folder: Path,
    name: str,
    *,
    sizes: Sequence[float] = MATFORMER_SIZES,
    pair: bool = False,
    max_length: int | None = None,
) -> Headed:
    """Read a classifier with nested feed-forward layers: the first units of each are a model.

    An encoder without a head is read by `models.formats.read` with the choice ``ffn``.

    Args:
        folder: As `sequence_classifiers.read` takes it.
        name: What clients call the model.
        sizes: Shares of the units, ascending, the last 1.
        pair: Whether it compares two texts.
        max_length: Most tokens of a row; None for what the files say.

    Raises:
        FormatError: If the folder cannot be read exactly.
        ValueError: If the sizes do not fit the model.
    """
    nested = Nested(ffn=tuple(sizes))
    return sequence_classifiers.read(folder, name, pair=pair, max_length=max_length, nested=nested)


def read_shared_exits(
    folder: Path,
    name: str,
    *,
    depths: Sequence[int],
    heads: Sequence[float] = (1.0,),
    ffn: Sequence[float] = (1.0,),
    pair: bool = False,
    max_length: int | None = None,
) -> Headed:
    """Read a classifier whose exits share one head: LayerSkip, and SortedNet's nested models.

    An exit is the first layers, the model's final norm where it has one, and its only head. Images:
    `models.formats.vision.read` has the same choice of depths.

    Args:
        folder: As `sequence_classifiers.read` takes it.
        name: What clients call the model.
        depths: Numbers of first layers, ascending, the last all of them.
        heads: Shares of the first heads, ascending, the last 1.
        ffn: Shares of the first feed-forward units, likewise.
        pair: Whether it compares two texts.
        max_length: Most tokens of a row; None for what the files say.

    Raises:
        FormatError: If the folder cannot be read exactly. Models that write text are refused by
            their ``model_type``: nothing here decodes.
        ValueError: If the choices do not fit the model.
    """
    nested = Nested(depths=tuple(depths), heads=tuple(heads), ffn=tuple(ffn))
    return sequence_classifiers.read(folder, name, pair=pair, max_length=max_length, nested=nested)
