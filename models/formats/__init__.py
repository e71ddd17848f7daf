"""Readers of public folders: each turns one layout of files into a model.

`read` recognises the layout of a text encoder, `read_any` also what has heads or takes images.
Starbucks checkpoints look like any BERT, so `starbucks.read` must be called by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch

from models import checkpoint
from models.families.exits import Exits
from models.families.headed import Headed
from models.files import reading, replacing
from models.formats import (
    huggingface,
    modular_star,
    sentence_transformers,
    sequence_classifiers,
    vision,
)
from models.formats.folder import Fields, FormatError
from models.formats.huggingface import Choices
from models.inputs.text import TOKENIZER

__all__ = ["Choices", "FormatError", "read", "read_any", "write"]


def read(folder: Path, name: str, **choices: Unpack[Choices]) -> Exits:
    """Read a public folder with the reader that fits it.

    Raises:
        FormatError: If a file is missing, or says something that cannot be expressed exactly.
            Also if the choices do not fit the model.
        TypeError: If there is no such choice.
    """
    if unknown := sorted(choices.keys() - Choices.__annotations__.keys()):
        raise TypeError(f"unknown choice {unknown[0]!r}; one of {list(Choices.__annotations__)}")
    with reading(folder, FormatError):
        try:
            return _read(folder, name, choices)
        except ValueError as error:  # a size that cannot be, or a choice that does not fit
            raise FormatError(str(error)) from None


def read_any(folder: Path, name: str, pair: bool = False) -> Exits | Headed:
    """Read a public folder of an encoder or classifier of texts or images, as its files tell.

    Args:
        folder: Of transformers or sentence-transformers.
        name: What clients call the model.
        pair: Whether a classifier of texts compares two of them, which no file says.

    Raises:
        FormatError: If a file is missing, or says something that cannot be expressed exactly.
    """
    with reading(folder, FormatError):
        if not (folder / sentence_transformers.MODULES).is_file():
            fields = Fields.read(folder / huggingface.CONFIG)
            if fields.values.get("model_type") in vision.MODEL_TYPES:
                return vision.read(folder, name)
            (architecture, *_) = fields.values.get("architectures") or [""]
            if str(architecture).endswith("ForSequenceClassification"):
                return sequence_classifiers.read(folder, name, pair=pair)
    return read(folder, name)


def _read(folder: Path, name: str, choices: Choices) -> Exits:
    if (folder / sentence_transformers.MODULES).is_file():
        return sentence_transformers.read(folder, name, **choices)
    if modular_star.IS_MODULAR_STAR in Fields.read(folder / huggingface.CONFIG).values:
        return modular_star.read(folder, name, **choices)
    return huggingface.read(folder, name, **choices)


def write(
    model: Exits | Headed, out: Path, dtype: torch.dtype = torch.float16
) -> checkpoint.Manifest:
    """Save a model as our own checkpoint, with its tokenizer if it has one.

    Args:
        model: As read.
        out: Made if needed.
        dtype: Floating-point type on disk.
    """
    out.mkdir(parents=True, exist_ok=True)
    if model.assets:
        with replacing(out / TOKENIZER) as part:
            part.write_text(model.text.to_json())
    family = "exits" if isinstance(model, Exits) else "headed"
    return checkpoint.save(out, model, family, dtype, model.assets)
