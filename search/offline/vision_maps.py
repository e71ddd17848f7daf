"""Files of truth for each pixel, as `dataset.toml` describes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.files import reading
from models.inputs import pixels
from models.inputs.containers import Size
from models.inputs.fitting import fit_nearest
from models.train.vision import VOID
from search.offline.errors import DataError
from search.offline.vision_spec import DepthSpec, EdgesSpec, LabelsSpec, NormalsSpec

MapSpec = DepthSpec | EdgesSpec | LabelsSpec | NormalsSpec
_GREY = ("1", "L", "P")
_DEEP = ("L", "I;16", "I")
_LEAST_LENGTH = 0.5  # of what can be a direction


def read_map(spec: MapSpec, path: Path, shown: Size, width: int, height: int) -> NDArray[Any]:
    """Read what a file says of an image's pixels, scaled and cut as the image is.

    Args:
        spec: How to read it.
        path: A PNG file.
        shown: Size of the image as it is shown, which the file must have.
        width: Wanted.
        height: Wanted.

    Returns:
        As `models.train.vision.Pictures` has it, of one image.

    Raises:
        DataError: Naming the file, the value at fault and what is allowed.
    """
    with reading(path, DataError), Image.open(path, formats=("PNG",)) as image:
        if image.size != tuple(shown):
            raise DataError(
                f"{path}: {image.width} x {image.height} pixels; its image has "
                f"{shown.width} x {shown.height} as it is shown"
            )
        pixels.check_size(*image.size)
        match spec:
            case LabelsSpec():
                return fit_nearest(_labels(spec, image, path), width, height)
            case EdgesSpec():
                grey = _values(image, ("1", "L"), path)
                if image.mode == "1":
                    grey = grey * np.uint8(255)
                return fit_nearest((grey >= spec.threshold).astype(np.uint8), width, height)
            case DepthSpec():
                stored = fit_nearest(_values(image, _DEEP, path), width, height)
                found = (stored * spec.scale).astype(np.float32)
                found[np.isin(stored, spec.void)] = np.nan
                return found[None]
            case NormalsSpec():
                return _normals(fit_nearest(_values(image, ("RGB",), path), width, height))


def unknown_map(spec: MapSpec, width: int, height: int) -> NDArray[Any]:
    """Return the truth of an image of which nothing is known."""
    if isinstance(spec, LabelsSpec | EdgesSpec):
        return np.full((height, width), VOID, np.uint8)
    channels = 1 if isinstance(spec, DepthSpec) else 3
    return np.full((channels, height, width), np.nan, np.float32)


def _values(image: Image.Image, modes: tuple[str, ...], path: Path) -> NDArray[Any]:
    if image.mode not in modes:
        raise DataError(f"{path}: pixels are {image.mode!r}; allowed: {', '.join(modes)}")
    found: NDArray[Any] = np.asarray(image)
    return found.astype(np.uint8) if image.mode == "1" else found


def _labels(spec: LabelsSpec, image: Image.Image, path: Path) -> NDArray[np.uint8]:
    named: Callable[[int], str] = str
    if spec.palette is None:
        stored = _values(image, _GREY, path).astype(np.int64)
        of_value = {i: i for i in range(len(spec.classes))} | {int(v): VOID for v in spec.void}
    else:
        rgb = np.asarray(image.convert("RGB")).astype(np.int64)
        stored = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        of_value = {_number(colour): i for i, colour in enumerate(spec.palette)}
        of_value |= {_number(str(colour)): VOID for colour in spec.void}
        named = _colour
    values, place = np.unique(stored, return_inverse=True)
    if unknown := [int(value) for value in values if int(value) not in of_value]:
        allowed = "the palette and void" if spec.palette else f"0 to {len(spec.classes) - 1}, void"
        raise DataError(f"{path}: a pixel is {named(unknown[0])}; allowed: {allowed}")
    classes = np.array([of_value[int(value)] for value in values], np.uint8)
    return classes[place].reshape(stored.shape)


def _number(colour: str) -> int:
    return int(colour[1:], 16)


def _colour(number: int) -> str:
    return f"#{number:06x}"


def _normals(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return unit vectors, shape [3, height, width]; NaN where a colour is no direction."""
    vectors = (2 * stored.astype(np.float32) / 255 - 1).transpose(2, 0, 1)
    length = np.linalg.norm(vectors, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: NDArray[np.float32] = vectors / length
    unit[:, length < _LEAST_LENGTH] = np.nan
    return unit
