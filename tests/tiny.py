"""A small slimmable checkpoint with random weights and a made-up table, for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from models import checkpoint
from models.families.slimmable import Slimmable, SlimmableConfig
from models.inputs.image import ImageInput

if TYPE_CHECKING:
    from search.quality.table import Table

TASKS = {
    "fish": ("flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose"),
    "people": ("baby", "man", "woman", "boy", "girl"),
}


def tiny_model(seed: int = 0, num_stages: int = 2, name: str = "tiny") -> Slimmable:
    """Return an untrained model of three tasks, widths 1/4 .. 1, 16 x 16 images."""
    torch.manual_seed(seed)
    config = SlimmableConfig(
        tasks=TASKS,
        input=ImageInput(16, 16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        channels=(32,) * num_stages,
        blocks=(1,) * num_stages,
        strides=(2,) * num_stages,
        decoder_channels=32,
    )
    model = Slimmable(name, config)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and biases start alike; make every slice distinct
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval().requires_grad_(False)


def tiny_rounded(seed: int = 0) -> Slimmable:
    """Return the same model with 8 bits on offer, calibrated on noise."""
    from search.offline.quantizing import ranges_of

    model = tiny_model(seed)
    generator = torch.Generator().manual_seed(seed)
    ranges = ranges_of(model, torch.randn(64, 3, 16, 16, generator=generator))
    both = Slimmable(model.name, replace(model.config, bits=(8, 32), ranges=ranges))
    both.load_state_dict(model.state_dict())
    return both.eval().requires_grad_(False)


def tiny_table(model: Slimmable, seed: int = 0) -> Table:
    """Return a table whose scores grow with width, with a little noise."""
    from search.quality.table import Cells, Table

    rng = np.random.default_rng(seed)
    rows = tuple(model.space.select({None}))
    cells = {}
    for task in model.tasks:
        columns = tuple(model.space.select({task}))
        row = np.array([sum(map(float, choice.values())) / len(choice) for choice in rows])
        column = np.array([sum(map(float, choice.values())) for choice in columns])
        value = 0.4 + 0.3 * np.sqrt(row)[:, None] + 0.1 * np.sqrt(column)[None, :]
        value = value + rng.normal(0, 0.01, value.shape)
        cells[task] = Cells(
            columns=columns,
            value=value.astype(np.float32).astype(np.float64),
            n=np.full(value.shape, 250),
            stderr=np.full(value.shape, 0.025),
            measured=np.ones(value.shape, dtype=np.bool_),
        )
    return Table(rows, cells)


def write_overflowing(folder: Path) -> Path:
    """Write a checkpoint of finite weights whose answers are not finite; return the folder."""
    from search.quality.table import TABLE

    model = tiny_model()
    with torch.no_grad():
        model.get_parameter("decoders.0.head.weight").fill_(3e38)
    folder.mkdir(parents=True, exist_ok=True)
    tiny_table(model).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "slimmable", torch.float32, files=[TABLE])
    return folder


def write_checkpoint(folder: Path, name: str = "tiny") -> Path:
    """Write the tiny checkpoint with its table and return the folder."""
    from search.quality.table import TABLE

    model = tiny_model(name=name)
    folder.mkdir(parents=True, exist_ok=True)
    tiny_table(model).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "slimmable", files=[TABLE])
    return folder
