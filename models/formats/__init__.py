"""Readers of public folders: each turns one layout of files into an `Exits` model.

`read` recognises the layout. Starbucks checkpoints look like any BERT, so `starbucks.read` must be
called by name.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Unpack

import torch

from models import checkpoint
from models.families.exits import Exits
from models.formats import huggingface, modular_star, sentence_transformers
from models.formats.folder import Fields, FormatError
from models.formats.huggingface import Choices
from models.text import TOKENIZER

__all__ = ["Choices", "FormatError", "read", "tokenizer_folder", "write"]


def read(folder: Path, name: str, **choices: Unpack[Choices]) -> Exits:
    """Read a public folder with the reader that fits it.

    Raises:
        FormatError: If a file is missing, or says something that cannot be expressed exactly.
        ValueError: If the choices do not fit the model.
    """
    if (folder / sentence_transformers.MODULES).is_file():
        return sentence_transformers.read(folder, name, **choices)
    if modular_star.IS_MODULAR_STAR in Fields.read(folder / huggingface.CONFIG).values:
        return modular_star.read(folder, name, **choices)
    return huggingface.read(folder, name, **choices)


def tokenizer_folder(source: Path) -> Path:
    """Return the folder of a public model that holds its tokenizer."""
    if (source / sentence_transformers.MODULES).is_file():
        return sentence_transformers.encoder_folder(source)
    return source


def write(
    model: Exits, source: Path, out: Path, dtype: torch.dtype = torch.float16
) -> checkpoint.Manifest:
    """Save a model as our own checkpoint, with the tokenizer of the folder it was read from.

    Args:
        model: As read.
        source: The public folder.
        out: Made if needed.
        dtype: Floating-point type on disk.
    """
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tokenizer_folder(source) / TOKENIZER, out / TOKENIZER)
    return checkpoint.save(out, model, "exits", dtype, files=(TOKENIZER,))
