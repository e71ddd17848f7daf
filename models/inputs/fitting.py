"""The part of an image that a model of another size sees: the middle, scaled."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Scalar = TypeVar("Scalar", bound=np.generic)


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale an image so that its shorter side fits, bicubically, and cut it at the centre."""
    if image.size == (width, height):
        return image
    box = _box(*image.size, width, height)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def fit_nearest(values: NDArray[Scalar], width: int, height: int) -> NDArray[Scalar]:
    """Scale and cut what belongs to an image's pixels as `fit` does the image; nothing is mixed.

    Args:
        values: Shape [rows, columns, ...], of the image as it is shown.
        width: Wanted.
        height: Wanted.
    """
    left, top, right, bottom = _box(values.shape[1], values.shape[0], width, height)
    columns = left + (np.arange(width) + 0.5) * (right - left) / width
    rows = top + (np.arange(height) + 0.5) * (bottom - top) / height
    return values[rows.astype(np.int64)[:, None], columns.astype(np.int64)]


def _box(
    full_width: int, full_height: int, width: int, height: int
) -> tuple[float, float, float, float]:
    """Return the part of an image that is kept: a long strip must not become a huge image."""
    scale = max(width / full_width, height / full_height)
    scaled_width = max(width, round(full_width * scale))
    scaled_height = max(height, round(full_height * scale))
    left, top = (scaled_width - width) // 2, (scaled_height - height) // 2
    return (
        left / scale,
        top / scale,
        min(full_width, (left + width) / scale),
        min(full_height, (top + height) / scale),
    )
