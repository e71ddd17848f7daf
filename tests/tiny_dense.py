"""A small dense model with random weights: classes, numbers and directions per pixel, a class."""

from __future__ import annotations

import torch

from models.families.dense import Dense, DenseConfig
from models.inputs.image import ImageInput
from models.tasks import Task

TASKS = (
    Task("parts", "map", ("sky", "sea", "land"), "miou"),
    Task("depth", "map", metric="rmse", unit="m", channels=("distance",)),
    Task("normals", "map", metric="mean_angular_error", channels=("right", "up", "out")),
    Task("place", "classes", ("coast", "island", "hill")),
)


def tiny_dense(
    tasks: tuple[Task, ...] = TASKS, size: tuple[int, int] = (12, 18), seed: int = 0
) -> Dense:
    """Return an untrained model of two stages; its sizes are no multiples of its strides."""
    torch.manual_seed(seed)
    config = DenseConfig(
        tasks=tasks,
        input=ImageInput(*size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        channels=(16, 16),
        blocks=(0, 1),
        strides=(2, 2),
        decoder_channels=(8, 16),
        widths=(0.5, 1.0),
        decoder_widths=(0.5, 1.0),
    )
    model = Dense("tiny-dense", config)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and biases start alike; make every slice distinct
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval().requires_grad_(False)
