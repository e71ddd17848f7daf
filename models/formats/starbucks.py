"""Reads a Starbucks checkpoint: a plain BERT folder trained at fixed pairs of depth and dimensions.

The files do not say which pairs; they are named here, or by the caller for a model of another size.

Source: Wang et al. 2024, Starbucks, arXiv 2410.13230: the [CLS] token of layer n, cut to its first
d dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from models.families.exits import Exits
from models.formats.folder import Fields, FormatError, Tensors
from models.formats.huggingface import CONFIG, Choices, assemble
from models.formats.model_types import MODEL_TYPES

PAIRS = ((2, 32), (4, 64), (6, 128), (8, 256), (10, 512), (12, 768))


def read(folder: Path, name: str, **choices: Unpack[Choices]) -> Exits:
    """Read a folder as a multi-exit model, in evaluation mode, with its tokenizer.

    Args:
        folder: As `huggingface.read` takes it.
        name: What clients call the model.
        **choices: See `Choices`. ``pairs`` stands for ``depths`` and ``dims``; its last must be the
            whole model.

    Raises:
        FormatError: If a file is missing, says something that cannot be expressed exactly, or does
            not fit the pairs.
        ValueError: If the choices do not fit the model.
    """
    fields = Fields.read(folder / CONFIG)
    architecture = fields.pick("model_type", {"bert": MODEL_TYPES["bert"]})
    pairs = choices.get("pairs", PAIRS)
    whole = (fields.integer("num_hidden_layers"), fields.integer("hidden_size"))
    if max(pairs) != whole:
        raise FormatError(f"{fields.path}: pairs={list(pairs)}; allowed: pairs that end at {whole}")
    said: Choices = {
        "pooling": "cls",
        "pairs": pairs,
        "depths": tuple(sorted({depth for depth, _ in pairs})),
        "dims": tuple(sorted({dim for _, dim in pairs})),
    }
    both: Choices = {**said, **choices}
    return assemble(folder, name, fields, architecture, Tensors.read(folder), both)
