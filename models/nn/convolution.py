"""Blocks of convolutional units with a shortcut around them, and the head of a classifier.

The caller says what is chosen of each unit, and which set of statistics counts (see
`models.nn.conv_unit`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.blocks import Activation, BlockConfig, UnitChoice, unit_bytes, unit_macs
from models.nn.conv_unit import ACTIVATIONS, ConvUnit
from models.nn.layers import SlimLinear

Total: TypeAlias = Callable[[int, Tensor], Tensor]
"""Function of a unit's number in its block and what it takes, to what its activation takes."""


class ConvBlock(nn.Module):
    """Units one after the other with a shortcut around them."""

    def __init__(
        self,
        config: BlockConfig,
        in_max: int,
        sets: Sequence[tuple[UnitChoice, ...]],
        affines: int,
        eps: float,
    ) -> None:
        """Make a block.

        Args:
            config: Of the block.
            in_max: Most channels that come in.
            sets: Of each set of statistics, the choices of all units, that of the shortcut last.
            affines: Scales and shifts of each unit.
            eps: Added to variances.
        """
        super().__init__()
        self.config, self.eps = config, eps
        self.units = nn.ModuleList()
        channels = in_max
        for i, unit in enumerate(config.units):
            self.units.append(ConvUnit(unit, channels, [own[i] for own in sets], affines))
            channels = channels if unit.out is None else max(unit.out.values)
        self.out_max = channels
        if config.shortcut_unit is not None:
            last = [own[-1] for own in sets]
            self.units.append(ConvUnit(config.shortcut_unit, in_max, last, affines))

    def forward(self, choices: tuple[UnitChoice, ...], number: int, x: Tensor) -> Tensor:
        """Run the block with a set of statistics.

        Args:
            choices: Of each unit, that of the shortcut last.
            number: Of the set.
            x: Shape [batch, channels, height, width].

        Returns:
            Shape [batch, channels of the last unit, height / stride, width / stride], rounded up.
        """
        return self.run(choices, self.totals(choices, number), x)

    def totals(self, choices: Sequence[UnitChoice], number: int) -> Total:
        """Return what runs its units with a set of statistics."""
        return lambda i, x: self.unit(i)(x, choices[i], number, self.eps)

    def run(self, choices: Sequence[UnitChoice], total: Total, x: Tensor) -> Tensor:
        """Run the block with another normalisation; see `forward`."""
        y = x
        for i in range(len(self.config.units)):
            y = self.unit(i).activate(choices[i], total(i, y))
        return self.leave(y, self.shortcut(total, x))

    def shortcut(self, total: Total, x: Tensor) -> Tensor | None:
        """Return what is added to what the units give, if anything is."""
        kind = self.config.shortcut
        if kind == "none":
            return None
        if kind == "identity":
            return x
        if kind == "pool-conv":
            x = F.avg_pool2d(x, self.config.stride, ceil_mode=True)
        return total(len(self.config.units), x)

    def leave(self, y: Tensor, added: Tensor | None) -> Tensor:
        """Return what leaves the block.

        Args:
            y: What the units give.
            added: By the shortcut.
        """
        y = ACTIVATIONS[self.config.activation](y if added is None else y + added)
        return F.max_pool2d(y, 3, 2, 1) if self.config.pool else y

    def macs(self, choices: Sequence[UnitChoice], height: int, width: int) -> tuple[int, int, int]:
        """Return the multiply-accumulates of one image, and the height and width that come out."""
        macs = 0
        for unit, choice in zip(self.config.units, choices, strict=False):
            height, width = -(-height // unit.stride), -(-width // unit.stride)
            macs += unit_macs(unit, choice, height * width)
        if (shortcut := self.config.shortcut_unit) is not None:
            macs += unit_macs(shortcut, choices[-1], height * width)
        if self.config.pool:
            height, width = -(-height // 2), -(-width // 2)
        return macs, height, width

    def bytes(self, choices: Sequence[UnitChoice], bits: int) -> int:
        """Return the bytes of the weights of a call, with a set of statistics, in 8 or 32 bits."""
        units = list(zip(self.config.normalised, choices, strict=True))
        return sum(unit_bytes(unit, own, bits) for unit, own in units)

    @property
    def all_units(self) -> list[ConvUnit]:
        """Its units, that of the shortcut last."""
        return [self.unit(i) for i in range(len(self.units))]

    def unit(self, i: int) -> ConvUnit:
        """Return a unit; that of the shortcut is the last."""
        unit = self.units[i]
        assert isinstance(unit, ConvUnit)
        return unit


class PooledHead(nn.Module):
    """The mean over all pixels, perhaps a linear layer with an activation, and a classifier.

    Attributes:
        mix: Without bias; None for none.
        classifier: With bias.
    """

    def __init__(
        self, in_max: int, hidden: int | None, activation: Activation, labels: int
    ) -> None:
        super().__init__()
        self.activation = activation
        self.mix = None if hidden is None else SlimLinear(in_max, hidden, bias=False)
        self.classifier = SlimLinear(in_max if hidden is None else hidden, labels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to logits [batch, labels]."""
        x = x.mean((2, 3))
        if self.mix is not None:
            x = ACTIVATIONS[self.activation](self.mix(x))
        logits: Tensor = self.classifier(x)
        return logits

    def macs(self, channels: int) -> int:
        """Return the multiply-accumulates of one image."""
        labels = self.classifier.out_features
        if self.mix is None:
            return channels * labels
        return channels * self.mix.out_features + self.mix.out_features * labels

    def parameters_of(self, channels: int) -> int:
        """Return the parameters of the head cut to some channels."""
        return self.macs(channels) + self.classifier.out_features

    def bytes(self, channels: int, bits: int) -> int:
        """Return the bytes of the weights of a call, in 8 or 32 bits."""
        labels = self.classifier.out_features
        if self.mix is None:
            return self.classifier.bytes(channels, labels, bits)
        inner = self.mix.out_features
        return self.mix.bytes(channels, inner, bits) + self.classifier.bytes(inner, labels, bits)
