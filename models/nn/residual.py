"""Residual blocks of slimmable convolutions, and the decoder of a task."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.layers import SlimConv2d, SlimGroupNorm, SlimLinear, bytes_of_norm


class Block(nn.Module):
    """Residual block of two 3x3 convolutions whose widths follow from the call."""

    def __init__(self, in_max: int, out_max: int, stride: int) -> None:
        super().__init__()
        self.conv1 = SlimConv2d(in_max, out_max, 3, stride)
        self.norm1 = SlimGroupNorm(out_max)
        self.conv2 = SlimConv2d(out_max, out_max, 3)
        self.norm2 = SlimGroupNorm(out_max)
        projects = in_max != out_max or stride != 1
        self.shortcut = SlimConv2d(in_max, out_max, 1, stride) if projects else None
        # Each block starts as its shortcut; without this the first epochs learn next to nothing.
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Map [batch, in, h, w] to [batch, width, h / stride, w / stride]."""
        h = F.relu(self.norm1(self.conv1(x, width)))
        h = self.norm2(self.conv2(h, width))
        return F.relu(h + (self.shortcut(x, width) if self.shortcut else x))

    def macs(self, in_channels: int, width: int, out_pixels: int) -> int:
        """Return the multiply-accumulates for one image."""
        convs = self.conv1.macs(in_channels, width, out_pixels)
        convs += self.conv2.macs(width, width, out_pixels)
        if self.shortcut:
            convs += self.shortcut.macs(in_channels, width, out_pixels)
        return convs

    def bytes(self, in_channels: int, width: int, bits: int) -> int:
        """Return the bytes of the weights of a call, in 8 or 32 bits."""
        convs = self.conv1.bytes(in_channels, width, bits) + self.conv2.bytes(width, width, bits)
        if self.shortcut:
            convs += self.shortcut.bytes(in_channels, width, bits)
        return convs + 2 * bytes_of_norm(width)


class TaskDecoder(nn.Module):
    """Two convolutions, global average pooling and a linear classifier."""

    def __init__(self, in_max: int, hidden_max: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = SlimConv2d(in_max, hidden_max, 1)
        self.norm1 = SlimGroupNorm(hidden_max)
        self.conv2 = SlimConv2d(hidden_max, hidden_max, 3)
        self.norm2 = SlimGroupNorm(hidden_max)
        self.head = SlimLinear(hidden_max, num_classes)

    def forward(self, feature: Tensor, width: int) -> Tensor:
        """Map features [batch, in, h, w] to logits [batch, classes]."""
        h = F.relu(self.norm1(self.conv1(feature, width)))
        h = F.relu(self.norm2(self.conv2(h, width)))
        logits: Tensor = self.head(h.mean(dim=(2, 3)))
        return logits

    def macs(self, in_channels: int, width: int, pixels: int) -> int:
        """Return the multiply-accumulates for one image."""
        convs = self.conv1.macs(in_channels, width, pixels) + self.conv2.macs(width, width, pixels)
        return convs + width * self.head.out_features

    def bytes(self, in_channels: int, width: int, bits: int) -> int:
        """Return the bytes of the weights of a call, in 8 or 32 bits."""
        convs = self.conv1.bytes(in_channels, width, bits) + self.conv2.bytes(width, width, bits)
        head = self.head.bytes(width, self.head.out_features, bits)
        return convs + 2 * bytes_of_norm(width) + head
