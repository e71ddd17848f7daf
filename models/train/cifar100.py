"""CIFAR100-MTL: the 20 superclasses of CIFAR-100 as 20 five-way tasks.

An image belongs to exactly one task, that of its superclass, and trains and scores only it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.inputs.image import ImageInput

INPUT = ImageInput(32, 32, mean=(0.5072, 0.4866, 0.4407), std=(0.2674, 0.2565, 0.2762))
VALIDATION_PER_CLASS = 50
Pixels = NDArray[np.uint8]
_TILE = 32
_TILES_PER_ROW = {"train": 25, "test": 10}
_SPLIT_SEED = 20230822  # fixed for ever: tables of different runs must share their images


@dataclass(frozen=True, slots=True)
class Images:
    """A split, sorted by task.

    Attributes:
        pixels: uint8, shape [images, 3, 32, 32].
        task: Index of the image's task, int64, shape [images].
        label: Class within the task, 0..4, int64, shape [images].
    """

    pixels: Tensor
    task: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Cifar100:
    """The tasks (superclass -> five class names) and the three splits."""

    tasks: Mapping[str, tuple[str, ...]]
    train: Images
    validation: Images
    test: Images


def load(root: Path) -> Cifar100:
    """Read the data set; 50 images of every training class become the validation split.

    Args:
        root: Folder with ``labels.json`` and one lossless WebP mosaic per class and split.

    Raises:
        FileNotFoundError: If the folder or a file of it is not there.
    """
    labels = json.loads((root / "labels.json").read_text())
    tasks: dict[str, tuple[str, ...]] = {name: () for name in labels["coarse"]}
    for fine, coarse in zip(labels["fine"], labels["fine_to_coarse"], strict=True):
        tasks[labels["coarse"][coarse]] += (fine,)

    rng = np.random.default_rng(_SPLIT_SEED)
    parts: dict[str, list[tuple[Pixels, int, int]]] = {"train": [], "val": [], "test": []}
    for t, classes in enumerate(tasks.values()):
        for c, fine in enumerate(classes):
            tiles = _read_mosaic(root / "train" / f"{fine}.webp", _TILES_PER_ROW["train"])
            tiles = tiles[rng.permutation(len(tiles))]
            parts["val"].append((tiles[:VALIDATION_PER_CLASS], t, c))
            parts["train"].append((tiles[VALIDATION_PER_CLASS:], t, c))
            tiles = _read_mosaic(root / "test" / f"{fine}.webp", _TILES_PER_ROW["test"])
            parts["test"].append((tiles, t, c))
    return Cifar100(tasks, _join(parts["train"]), _join(parts["val"]), _join(parts["test"]))


def _read_mosaic(path: Path, columns: int) -> Pixels:
    """Return the tiles of a mosaic, uint8, shape [tiles, 3, 32, 32], row by row."""
    with Image.open(path) as image:
        mosaic = np.asarray(image.convert("RGB"))
    rows = mosaic.shape[0] // _TILE
    tiles = mosaic.reshape(rows, _TILE, columns, _TILE, 3).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(rows * columns, 3, _TILE, _TILE)


def _join(parts: list[tuple[Pixels, int, int]]) -> Images:
    counts = [len(tiles) for tiles, _, _ in parts]
    return Images(
        pixels=torch.from_numpy(np.concatenate([tiles for tiles, _, _ in parts])),
        task=torch.from_numpy(np.repeat([t for _, t, _ in parts], counts)),
        label=torch.from_numpy(np.repeat([c for _, _, c in parts], counts)),
    )
