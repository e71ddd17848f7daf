"""Rendered scenes in memory, as models of the data set `scenes` know them."""

from __future__ import annotations

import numpy as np
import torch

from models.tasks import Task
from models.train.scenes import CLASSES, draw_scene, render
from models.train.vision import Pictures
from search.offline.vision_spec import EDGE_LABELS, NORMAL_CHANNELS

TASKS = (
    Task("segmentation", "map", CLASSES, "miou"),
    Task("depth", "map", (), "rmse", "m", ("distance",)),
    Task("normals", "map", (), "mean_angular_error", "", NORMAL_CHANNELS),
    Task("edges", "map", EDGE_LABELS, "f1"),
)


def scenes(seed: int, count: int, height: int, width: int) -> Pictures:
    """Render the first scenes of a seed."""
    found = [render(draw_scene(seed, i), height, width) for i in range(count)]
    truth = {
        "segmentation": np.stack([one.labels for one in found]),
        "depth": np.stack([one.depth for one in found])[:, None],
        "normals": np.stack([one.normals for one in found]).transpose(0, 3, 1, 2).copy(),
        "edges": np.stack([one.edges for one in found]).astype(np.uint8),
    }
    pixels = np.stack([one.pixels for one in found]).transpose(0, 3, 1, 2).copy()
    return Pictures(
        torch.from_numpy(pixels), {task: torch.from_numpy(one) for task, one in truth.items()}
    )
