"""Images: how client bytes become the tensor that a plan starts from."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict
from torch import Tensor

from models.core import Shape
from models.inputs import pixels as images
from models.inputs.content import Array, Content, Encoded, InvalidInputError, refuse
from models.inputs.digest import digest_of
from models.inputs.fitting import fit


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
    kind: ClassVar[str] = "image"
    has_length: ClassVar[bool] = False

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one input: [3, height, width]."""
        return (3, self.height, self.width)

    def decode(self, content: Content) -> Tensor:
        """Turn an encoded image, its pixels, or what the client has normalised, into the input.

        Returns:
            float32, shape [3, height, width].

        Raises:
            InvalidInputError: As `from_file`, `from_pixels` and `check_normalised`; or if the
                content is no image.
        """
        if isinstance(content, Encoded):
            return self.from_file(content.data)
        if not isinstance(content, Array):
            refuse("images", content)
        if content.values.dtype == np.uint8:
            return self.from_pixels(content.values)
        return self.check_normalised(content.values)

    def decode_all(self, contents: Sequence[Content]) -> list[Tensor]:
        """Return what `decode` does of each."""
        return [self.decode(one) for one in contents]

    def from_file(self, data: bytes) -> Tensor:
        """Turn an encoded image into the model's input, as a viewer shows it.

        Returns:
            float32, shape [3, height, width].

        Raises:
            InvalidInputError: If the bytes are empty, not PNG, JPEG or WebP, truncated, or more
                than 40 million pixels.
        """
        try:
            return self._normalised(images.displayed(data, self.width, self.height))
        except images.InvalidImageError as error:
            raise InvalidInputError(str(error)) from None

    def from_pixels(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Turn RGB pixels into the model's input, as if they had come encoded.

        Args:
            pixels: uint8, shape [height, width, 3], no size 0.

        Returns:
            float32, shape [3, height, width].

        Raises:
            InvalidInputError: If there are more than 40 million pixels.
        """
        height, width, _ = pixels.shape
        try:
            images.check_size(width, height)
        except images.InvalidImageError as error:
            raise InvalidInputError(str(error)) from None
        return self._normalised(fit(Image.fromarray(pixels), self.width, self.height))

    def check_normalised(self, values: NDArray[np.float32]) -> Tensor:
        """Return what a caller has normalised itself, once it is seen to be that.

        Resampling in floating point overshoots black and white, so one range of colours is allowed
        on either side. Pixels of 0..255 that nobody normalised are far outside.

        Args:
            values: float32, shape [3, height, width] of the model.

        Returns:
            The same values.

        Raises:
            InvalidInputError: If one is NaN or cannot be a normalised colour.
        """
        colours = np.array([[-1.0], [2.0]])
        least, most = (colours - np.array(self.mean)) / np.array(self.std)
        flat = values.reshape(3, -1)
        is_sound = (flat >= least[:, None]) & (flat <= most[:, None])  # also not with a NaN
        if not is_sound.all():
            channel, at = np.argwhere(~is_sound)[0]
            raise InvalidInputError(
                f"channel {channel} holds {flat[channel, at]:g}; normalised, it must lie between "
                f"{least[channel]:.6g} and {most[channel]:.6g}"
            )
        return torch.tensor(values)

    def shape_of(self, value: Tensor) -> Shape:
        """Return the one shape there is."""
        return self.shape

    def plan_shape(self, length: int | None) -> Shape:
        """Return the one shape there is; InvalidInputError for a length."""
        if length is not None:
            raise InvalidInputError(f"tokens={length}: this input has no length")
        return self.shape

    def bucket(self, value: Tensor) -> Hashable:
        """Return the shape: tensors are stacked."""
        return tuple(value.shape)

    def size(self, value: Tensor) -> int:
        """Return 0: images are counted by rows."""
        return 0

    def digest(self, value: Tensor) -> Hashable:
        """Return a digest of the normalised pixels."""
        return digest_of(value)

    def collate(self, values: Sequence[Tensor]) -> Tensor:
        """Return a batch, float32, shape [batch, 3, height, width]."""
        return torch.stack(list(values))

    def example(self, length: int | None = None) -> Tensor:
        """Return a grey image."""
        return torch.zeros(self.shape)

    def describe(self) -> dict[str, Any]:
        """Return formats and size."""
        return {
            "kind": self.kind,
            "formats": list(images.FORMATS),
            "height": self.height,
            "width": self.width,
            "resize": "bicubic until the shorter side fits, then cut at the centre",
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale uint8 pixels, shape [..., 3, height, width], to the model's range, float32."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels.float() / 255 - mean) / std

    def _normalised(self, image: Image.Image) -> Tensor:
        return self.normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1))
