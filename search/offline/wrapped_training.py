"""What training a wrapped public encoder has in common: what it starts from, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch

from models import checkpoint, formats
from models.families.exits import Exits
from models.inputs.text import TOKENIZER
from models.tasks import Metric
from models.wrapped import Wrapped
from search.offline.training import RECORD, machine
from search.quality.embeddings import Measured
from search.quality.table import TABLE, Table

_LENGTH = 128  # tokens of a text, at most


def plain(source: Path, name: str, tasks: Mapping[str, Metric]) -> Exits:
    """Return a public encoder whose last layer alone answers some tasks.

    Args:
        source: A folder that `models.formats.read` reads.
        name: Of the model.
        tasks: Their metrics by name.
    """
    base: Exits = formats.read(source, name)
    text = replace(base.config.text, max_length=min(_LENGTH, base.config.text.max_length))
    whole = (base.config.encoder.layers,)
    made = Exits(
        name,
        replace(base.config, depths=whole, dims=base.config.dims[-1:], tasks=tasks, text=text),
    )
    state = base.state_dict()
    made.load_state_dict({key: state[key] for key in made.state_dict()})
    made.attach(source)
    return made.eval().requires_grad_(False)


def around(made: Wrapped, base: Exits, source: Path) -> None:
    """Give a new model the weights and the files of the encoder that it wraps; it cannot learn."""
    made.base.load_state_dict(base.state_dict())
    made.attach(source)
    made.eval().requires_grad_(False)


def scores_told(found: Mapping[str, Mapping[str, Measured]]) -> dict[str, Any]:
    """Return scores as a record has them."""
    return {key: {name: one._asdict() for name, one in own.items()} for key, own in found.items()}


def write_trained(
    model: Any,
    family: str,
    source: Path | None,
    out: Path,
    table: Table,
    recipe: Any,
    told: Mapping[str, Any],
) -> None:
    """Write a trained model's checkpoint with its table and the record of its training.

    Args:
        model: In single precision.
        family: Its own.
        source: Folder of the tokenizer; None for a model without.
        out: Folder of the checkpoint.
        table: Measured on development data.
        recipe: Hyper-parameters, a dataclass.
        told: What else the record has: scores on test data, and the log.
    """
    files = [TABLE, RECORD]
    if source is not None:
        copyfile(source / TOKENIZER, out / TOKENIZER)
        files.insert(0, TOKENIZER)
    table.save(out / TABLE, model.space)
    record = {"recipe": asdict(recipe), **told, "machine": machine()}
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    checkpoint.save(out, model, family, torch.float32, files)
