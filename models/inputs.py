"""What a model takes: how client bytes become the tensor its plan starts from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import ConfigDict
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 40_000_000


class InvalidInputError(ValueError):
    """The client's bytes are not an input of the model. The message says why and what is."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An RGB image of fixed size, normalised per channel.

    An image of another size is scaled with bicubic interpolation so that its shorter side fits,
    then cut at the centre.

    Attributes:
        height: Pixels.
        width: Pixels.
        mean: Subtracted per channel, of values in 0..1.
        std: Divided by, per channel.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one input: [3, height, width]."""
        return (3, self.height, self.width)

    def decode(self, data: bytes) -> Tensor:
        """Turn an encoded image into the model's input.

        Returns:
            float32, shape [3, height, width].

        Raises:
            InvalidInputError: If the bytes are empty, not PNG, JPEG or WebP, truncated, or more
                than 40 million pixels.
        """
        if not data:
            raise InvalidInputError("the image is empty (0 bytes)")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise InvalidInputError(f"not an image; allowed: {', '.join(FORMATS)}") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InvalidInputError(f"the image has more than {MAX_PIXELS:,} pixels") from None
        except (OSError, ValueError, SyntaxError) as error:
            raise InvalidInputError(f"the image cannot be opened: {error}") from None
        if image.width * image.height > MAX_PIXELS:
            raise InvalidInputError(
                f"the image has more than {MAX_PIXELS:,} pixels: {image.width} x {image.height}"
            )
        try:
            pixels = np.asarray(self._fit(image.convert("RGB")))
        except (OSError, ValueError, SyntaxError, IndexError) as error:
            raise InvalidInputError(f"the image cannot be decoded: {error}") from None
        return self.normalise(torch.from_numpy(pixels.copy()).permute(2, 0, 1))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale uint8 pixels, shape [..., 3, height, width], to the model's range, float32."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels.float() / 255 - mean) / std

    def _fit(self, image: Image.Image) -> Image.Image:
        if image.size == (self.width, self.height):
            return image
        scale = max(self.width / image.width, self.height / image.height)
        width = max(self.width, round(image.width * scale))
        height = max(self.height, round(image.height * scale))
        left, top = (width - self.width) // 2, (height - self.height) // 2
        # Scale only the part that is kept, so that a long strip does not become a huge image.
        box = (
            left / scale,
            top / scale,
            min(image.width, (left + self.width) / scale),
            min(image.height, (top + self.height) / scale),
        )
        return image.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box)
