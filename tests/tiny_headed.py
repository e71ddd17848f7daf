"""Servable checkpoints of small encoders with heads: a classifier of texts and a cross-encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from models import checkpoint, formats
from models.families.headed import Headed
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE
from tests.conformance.fixtures.headed import classes, pairs

CLASSIFIER, CROSS_ENCODER = "tiny-classes", "tiny-pairs"


def write_headed_checkpoint(folder: Path, make: Callable[[Path], Headed], name: str) -> Path:
    """Write a checkpoint with made-up scores, more for more; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make(folder)
    model.name = name
    formats.write(model, folder)
    subnets = list(model.space)
    found = [Measured(0.4 + 0.5 * (i + 1) / len(subnets), 50, 0.01) for i in range(len(subnets))]
    tasks = dict.fromkeys(model.tasks, found)
    table_of(model, subnets, tasks).save(folder / TABLE, model.space)
    checkpoint.cover(folder, TABLE)
    return folder


def write_classifier(folder: Path, name: str = CLASSIFIER) -> Path:
    """Write a classifier of texts with three classes; return the folder."""
    return write_headed_checkpoint(folder, classes, name)


def write_cross_encoder(folder: Path, name: str = CROSS_ENCODER) -> Path:
    """Write a model that scores two texts; return the folder."""
    return write_headed_checkpoint(folder, pairs, name)
