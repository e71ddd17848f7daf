"""Images with what is known of them, task by task; any task may be unknown for any image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.inputs.image import ImageInput
from models.tasks import Task

UNKNOWN = -1  # as the class of an image
VOID = 255  # as the class of a pixel


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images and the truth about them.

    Attributes:
        pixels: uint8, shape [images, 3, height, width].
        truth: By task. Classes of images: int64, shape [images], `UNKNOWN` where not known. Maps of
            classes: uint8, shape [images, height, width], `VOID` likewise. Maps of numbers:
            float32, shape [images, channels, height, width], NaN likewise.
    """

    pixels: Tensor
    truth: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, rows: Tensor | slice) -> Pictures:
        """Return some of the images."""
        return Pictures(self.pixels[rows], {task: one[rows] for task, one in self.truth.items()})


@dataclass(frozen=True, slots=True)
class VisionData:
    """A data set.

    Attributes:
        name: Of it.
        tasks: What is asked of an image, by name.
        input: Size and normalisation of the images.
        train: Images to learn from.
        validation: Images that subnets are chosen on.
        test: Images that choose nothing.
    """

    name: str
    tasks: Mapping[str, Task]
    input: ImageInput
    train: Pictures
    validation: Pictures
    test: Pictures


def is_known(truth: Tensor) -> Tensor:
    """Return for which pixels, or images, something is known; numbers in all channels.

    Args:
        truth: As in `Pictures`.

    Returns:
        Of maps shape [images, height, width], of classes shape [images].
    """
    if truth.is_floating_point():
        return truth.isfinite().all(dim=1)
    known: Tensor = truth != (VOID if truth.dtype == torch.uint8 else UNKNOWN)
    return known


def with_known(pictures: Pictures, task: str) -> Tensor:
    """Return the numbers of the images of which a task is known somewhere, int64."""
    known = is_known(pictures.truth[task])
    return known.flatten(1).any(dim=1).nonzero()[:, 0] if known.ndim > 1 else known.nonzero()[:, 0]
