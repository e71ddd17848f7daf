"""Elastic layers: each holds the widest weight and computes with a slice of it.

The widths of a call follow from its input and its arguments, never from module state. Slices are
views: nothing is copied, and any number of subnets share one tensor.

Source: Yu et al. 2018, Slimmable Neural Networks, arXiv 1812.08928, for slicing leading channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.calibrated import Calibrated
from models.nn.quantized import Roundable, linear, linear_bytes

GROUP_SIZE = 8  # channels a normalisation group, at every width


class SlimConv2d(Calibrated):
    """Convolution without bias whose input and output channels can be narrowed."""

    linears: ClassVar[dict[str, str]] = {"weight": "steps"}
    inner: ClassVar[int] = 3
    steps: nn.Parameter | None

    def __init__(self, in_max: int, out_max: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_max, in_max, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.register_parameter("steps", None)
        self.stride, self.padding = stride, kernel_size // 2

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        """Convolve with the leading channels of the weight.

        Args:
            x: Shape [batch, in, height, width], in <= in_max.
            out_channels: Channels to compute, 1..out_max.

        Returns:
            Shape [batch, out_channels, height / stride, width / stride], rounded up.
        """
        weight = self.weight[:out_channels, : x.shape[1]]
        if self.steps is None:
            return F.conv2d(x, weight, stride=self.stride, padding=self.padding)
        return self.int8(x, weight, self.steps[:out_channels], self.stride, self.padding)

    def macs(self, in_channels: int, out_channels: int, out_pixels: int) -> int:
        """Return the multiply-accumulates for one image."""
        taps = self.weight.shape[2] * self.weight.shape[3]
        return taps * in_channels * out_channels * out_pixels

    def bytes(self, in_channels: int, out_channels: int, bits: int) -> int:
        """Return the bytes of the weights of a call, in 8 or 32 bits."""
        taps = self.weight.shape[2] * self.weight.shape[3]
        return linear_bytes(taps * in_channels, out_channels, bits)


def bytes_of_norm(channels: int) -> int:
    """Return the bytes of a group normalisation's scales and shifts."""
    return 8 * channels


class SlimGroupNorm(nn.Module):
    """Group normalisation with a fixed number of channels per group.

    Each group of ``GROUP_SIZE`` channels is normalised by itself, so the leading groups of a wide
    call are normalised exactly as in a narrow one. There are no running statistics: those of a
    slice are not a slice of those of the whole, and in a decoder they would depend on the
    encoder's width too.
    """

    def __init__(self, max_channels: int) -> None:
        super().__init__()
        if max_channels % GROUP_SIZE:
            raise ValueError(f"max_channels={max_channels} is not a multiple of {GROUP_SIZE}")
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(torch.zeros(max_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape [batch, channels, height, width], channels <= max_channels."""
        channels = x.shape[1]
        return F.group_norm(x, channels // GROUP_SIZE, self.weight[:channels], self.bias[:channels])


class SlimLinear(nn.Linear, Roundable):
    """Linear layer whose inputs and outputs can be narrowed."""

    linears: ClassVar[dict[str, str]] = {"weight": "steps"}
    steps: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_parameter("steps", None)

    def forward(self, x: Tensor, out_features: int | None = None) -> Tensor:
        """Map ``x``, shape [rows, in], in <= in_features, to the leading outputs; None for all."""
        out = slice(out_features)
        bias: Tensor | None = self.bias  # `nn.Linear` does not say that there may be none
        return linear(
            x,
            self.weight[out, : x.shape[1]],
            bias if bias is None else bias[out],
            self.steps if self.steps is None else self.steps[out],
        )

    def bytes(self, inputs: int, outputs: int, bits: int) -> int:
        """Return the bytes of the weights that a call reads, in 8 or 32 bits."""
        bias: Tensor | None = self.bias
        return linear_bytes(inputs, outputs, bits) + (0 if bias is None else 4 * outputs)
