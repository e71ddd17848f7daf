"""Servable checkpoints of toy families, with made-up scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint, families
from models.inputs.text import TOKENIZER
from search.quality.table import TABLE, Cells, Table
from tests.conformance.fixtures.toys import SUBJECTS, TOYS
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint


@contextmanager
def toy_families() -> Iterator[None]:
    """Let checkpoints of toys be read as those of shipped families."""
    shipped = families.get
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "get", lambda name: TOYS.get(name) or shipped(name))
        yield


def write_varied(folder: Path) -> Path:
    """Write models that give classes, vectors of texts, and maps, in families of toys."""
    write_checkpoint(folder / "tiny")
    write_text_checkpoint(folder / "tiny-text")
    write_toy(folder / "maps", "maps")
    return folder


def write_toy(folder: Path, name: str) -> Path:
    """Write a toy's checkpoint; more of an axis is better, and half the error where that counts."""
    (subject,) = (one for one in SUBJECTS if one.name == name)
    folder.mkdir(parents=True)
    model = subject.make(folder)
    space = model.space
    rows = tuple(space.select({None}))
    place = {axis.name: {v: i for i, v in enumerate(axis.values)} for axis in space.axes}
    cells = {}
    for task, of in model.tasks.items():
        columns = tuple(space.select({task}))
        size = np.array(
            [
                [sum(place[axis][v] for axis, v in (row | own).items()) for own in columns]
                for row in rows
            ]
        )
        gain = 0.1 * size / size.max()
        if name == "bits":  # five bits are luckier than all of them in the small width
            lucky = [[0.1 * (row["bits"] == 5 and row["width"] == 8)] for row in rows]
            gain = np.minimum(gain + np.array(lucky), 0.099 + 0.001 * gain / 0.1)
        value = (0.5 - gain) if of.lower_is_better else (0.5 + gain)
        cells[task] = Cells(
            columns=columns,
            value=value,
            n=np.full(value.shape, 100),
            stderr=np.full(value.shape, 0.01),
            measured=np.ones(value.shape, dtype=np.bool_),
            lower_is_better=of.lower_is_better,
        )
    Table(rows, cells).save(folder / TABLE, space)
    files = [TABLE, *([TOKENIZER] if (folder / TOKENIZER).exists() else [])]
    checkpoint.save(folder, model, subject.family, torch.float32, files)
    return folder
