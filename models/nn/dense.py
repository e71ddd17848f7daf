"""Parts of networks that answer per pixel: encoder stages, and decoders that read all of them.

Sources: Ronneberger et al. 2015, U-Net, arXiv 1505.04597, for skip connections into a decoder; Lin
et al. 2017, Feature Pyramid Networks, arXiv 1612.03144, for joining them by 1x1 convolutions and
sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.layers import GROUP_SIZE, SlimConv2d, SlimGroupNorm, bytes_of_norm
from models.nn.residual import Block


def narrowed(full: int, width: float) -> int:
    """Return a share of some channels, rounded up to whole groups."""
    return ceil(round(full * width / GROUP_SIZE, 6)) * GROUP_SIZE


class EncoderStage(nn.Module):
    """Residual blocks at one scale; the first stage begins with a convolution of the image."""

    def __init__(self, in_max: int, out_max: int, blocks: int, stride: int, is_first: bool) -> None:
        super().__init__()
        self.stem = SlimConv2d(in_max, out_max, 3, stride) if is_first else None
        self.stem_norm = SlimGroupNorm(out_max) if is_first else None
        inputs, strides = (out_max, 1) if is_first else (in_max, stride)
        first = [Block(inputs, out_max, strides)] if blocks else []
        self.blocks = nn.ModuleList(
            [*first, *(Block(out_max, out_max, 1) for _ in range(blocks - 1))]
        )

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Map [batch, in, h, w] to [batch, width, h / stride, w / stride], rounded up."""
        if self.stem is not None and self.stem_norm is not None:
            x = F.relu(self.stem_norm(self.stem(x, width)))
        for block in self.blocks:
            x = block(x, width)
        return x

    def macs(self, in_channels: int, width: int, out_pixels: int) -> int:
        """Return the multiply-accumulates for one image."""
        found = 0
        if self.stem is not None:
            found += self.stem.macs(in_channels, width, out_pixels)
            in_channels = width
        for block in self._blocks():
            found += block.macs(in_channels, width, out_pixels)
            in_channels = width
        return found

    def bytes(self, in_channels: int, width: int, bits: int = 32) -> int:
        """Return the bytes of the weights of a call."""
        found = 0
        if self.stem is not None:
            found += self.stem.bytes(in_channels, width, bits) + bytes_of_norm(width)
            in_channels = width
        for block in self._blocks():
            found += block.bytes(in_channels, width, bits)
            in_channels = width
        return found

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


class MapDecoder(nn.Module):
    """From the features of all stages to a value per pixel.

    It begins at the coarsest stage. At each finer one, what it has is made as wide as it is there,
    enlarged, and summed with that stage's feature; a 3x3 convolution mixes both.
    """

    def __init__(
        self, features: Sequence[int], channels: Sequence[int], outputs: int, is_unit: bool
    ) -> None:
        """Take full widths.

        Args:
            features: Channels of each encoder stage, finest first.
            channels: Of the decoder at each of them.
            outputs: Channels of the answer.
            is_unit: Whether answers are made unit vectors.
        """
        super().__init__()
        self.channels, self.outputs, self.is_unit = tuple(channels), outputs, is_unit
        levels = range(len(channels))
        self.skips = nn.ModuleList(SlimConv2d(features[i], channels[i], 1) for i in levels)
        self.norms = nn.ModuleList(SlimGroupNorm(channels[i]) for i in levels)
        finer = levels[:-1]
        self.ups = nn.ModuleList(SlimConv2d(channels[i + 1], channels[i], 1) for i in finer)
        self.mixes = nn.ModuleList(SlimConv2d(channels[i], channels[i], 3) for i in finer)
        self.head = SlimConv2d(channels[0], outputs, 1)
        self.bias = nn.Parameter(self.head.weight.new_zeros(outputs))

    def forward(self, *features: Tensor, widths: tuple[int, ...], size: tuple[int, int]) -> Tensor:
        """Return an answer.

        Args:
            features: Of each stage, shape [batch, in, h, w], finest first.
            widths: Channels at each stage.
            size: Height and width of the answer.

        Returns:
            Shape [batch, outputs, *size].
        """
        last = len(features) - 1
        y = F.relu(self.norms[last](self.skips[last](features[last], widths[last])))
        for i in reversed(range(last)):
            joined = self.skips[i](features[i], widths[i])
            rising = self.ups[i](y, widths[i])
            joined = joined + F.interpolate(rising, size=joined.shape[2:], mode="nearest")
            y = F.relu(self.norms[i](self.mixes[i](F.relu(joined), widths[i])))
        found = self.head(y, self.outputs) + self.bias[:, None, None]
        found = F.interpolate(found, size=size, mode="bilinear", align_corners=False)
        return F.normalize(found, dim=1) if self.is_unit else found

    def macs(self, features: Sequence[int], widths: Sequence[int], pixels: Sequence[int]) -> int:
        """Return the multiply-accumulates for one image.

        Args:
            features: Channels that come in, of each stage.
            widths: Channels at each stage.
            pixels: Of each stage's feature.
        """
        found = widths[0] * self.outputs * pixels[0]
        for i, own in enumerate(widths):
            found += features[i] * own * pixels[i]
            if i + 1 < len(widths):
                found += widths[i + 1] * own * pixels[i + 1] + 9 * own * own * pixels[i]
        return found

    def bytes(self, features: Sequence[int], widths: Sequence[int]) -> int:
        """Return the bytes of the weights of a call."""
        found = 4 * (widths[0] + 1) * self.outputs
        for i, own in enumerate(widths):
            found += 4 * features[i] * own + bytes_of_norm(own)
            if i + 1 < len(widths):
                found += 4 * (widths[i + 1] * own + 9 * own * own)
        return found
