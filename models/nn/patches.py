"""From an image to packed vectors: one for each patch, after those that every image has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

from models.inputs.image import ImageInput
from models.nn.padded import PaddedLayout
from models.nn.ragged import Layout, Ragged


@dataclass(frozen=True)
class PatchConfig:
    """How an image becomes tokens.

    Attributes:
        input: Size and normalisation of the image.
        size: Side of a patch, pixels.
        prefix: Tokens before those of the patches.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    input: ImageInput
    size: int
    prefix: int = 1

    def __post_init__(self) -> None:
        """Refuse an image that is not a number of whole patches."""
        for name, side in (("height", self.input.height), ("width", self.input.width)):
            if self.size < 1 or side % self.size:
                raise ValueError(f"{name}={side} must be a multiple of the patch size={self.size}")
        if self.prefix < 0:
            raise ValueError(f"prefix={self.prefix} must be 0 or more")

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.input.height // self.size) * (self.input.width // self.size)

    @property
    def tokens(self) -> int:
        """All tokens of an image."""
        return self.prefix + self.patches


class PatchEmbedding(nn.Module):
    """A linear map of each patch, and its position.

    Constants of the original model are folded when a checkpoint is read: the bias of the map into
    the positions, and the positions of the prefix into the prefix.
    """

    def __init__(self, config: PatchConfig, hidden: int) -> None:
        super().__init__()
        self.size = config.size
        self.weight = nn.Parameter(torch.randn(hidden, 3, config.size, config.size) * 0.02)
        self.position = nn.Parameter(torch.zeros(config.patches, hidden))
        self.prefix = nn.Parameter(torch.zeros(config.prefix, hidden))

    def forward(self, images: Tensor) -> Ragged:
        """Map images [batch, 3, height, width] to packed vectors [batch * tokens, hidden]."""
        patches = F.conv2d(images, self.weight, stride=self.size).flatten(2).transpose(1, 2)
        prefix = self.prefix.expand(images.shape[0], *self.prefix.shape)
        x = torch.cat((prefix, patches + self.position), dim=1)
        layout: Layout
        if torch.compiler.is_exporting():  # the number of images stays open
            layout = PaddedLayout(torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
        else:
            layout = Layout([x.shape[1]] * x.shape[0], x.device)
        return Ragged(x.flatten(0, 1), layout)

    def macs(self) -> int:
        """Return the multiply-accumulates of one image."""
        return self.position.shape[0] * self.weight.numel()
