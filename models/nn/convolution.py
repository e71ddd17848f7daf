"""Convolutional blocks with a choice of channels and kernel sizes, and statistics for each choice.

A unit is a convolution, its normalisation by kept statistics, an activation and perhaps a
squeeze-excitation; a block is units one after the other with a shortcut around them. Weights are
the widest; a call reads leading channels. Statistics of batch normalisation are no slices of one
another: whatever was chosen up to a block moves the distribution of what comes in. So a block keeps
*sets* of them, and the caller says which.

Sources: Ioffe and Szegedy 2015, Batch Normalization, arXiv 1502.03167; Hu et al. 2018,
Squeeze-and-Excitation Networks, arXiv 1709.01507; Yu and Huang 2019, Universally Slimmable
Networks, arXiv 1903.05134, for statistics found after training, for each width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.blocks import (
    Activation,
    BlockConfig,
    UnitChoice,
    UnitConfig,
    unit_macs,
    unit_parameters,
)

Total: TypeAlias = Callable[[int, Tensor], Tensor]
"""Function of a unit's number in its block and what it takes, to what its activation takes."""
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
}
MEAN, VARIANCE = 0, 1
SCALE, SHIFT = 0, 1


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad so that ceil(size / stride) pixels come out, the odd one of the zeros at the end."""
    edges: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        edges += [total // 2, total - total // 2]
    return F.pad(x, edges)


class ConvUnit(nn.Module):
    """A convolution, normalisation, activation and perhaps a squeeze-excitation.

    Attributes:
        kernels: Weights by kernel size.
        affine: Scale and shift, shape [1 or sets, 2, channels].
        statistics: Mean and variance, shape [sets, 2, channels]; narrower sets end in zeros.
        maps: Weights and biases by set, of a fitted unit, which has none of the above.
    """

    affine: Tensor
    statistics: Tensor

    def __init__(
        self, config: UnitConfig, in_max: int, choices: Sequence[UnitChoice], affines: int
    ) -> None:
        super().__init__()
        self.config = config
        self.reduce = self.expand = None
        out = in_max if config.out is None else max(config.out.values)
        if config.squeeze is not None:
            inner = max(config.squeeze.values)
            self.reduce, self.expand = nn.Linear(out, inner), nn.Linear(inner, out)
        own = choices if config.fitted else ()
        self.maps = nn.ModuleList(nn.Conv2d(one.inputs, one.out, one.kernel) for one in own)
        if config.fitted:
            return
        inputs, sizes = 1 if config.out is None else in_max, sorted(set(config.kernel.values))
        self.kernels = nn.ParameterDict({str(k): torch.empty(out, inputs, k, k) for k in sizes})
        for kernel in self.kernels.values():
            nn.init.kaiming_normal_(kernel, mode="fan_out")
        self.affine = nn.Parameter(torch.zeros(affines, 2, out))
        nn.init.ones_(self.affine[:, SCALE])
        self.statistics = nn.Parameter(torch.ones(len(choices), 2, out), requires_grad=False)
        nn.init.zeros_(self.statistics[:, MEAN])

    def convolve(self, choice: UnitChoice, x: Tensor) -> Tensor:
        """Map [batch, in, h, w] to [batch, out, h / stride, w / stride], rounded up."""
        groups = choice.inputs if self.config.out is None else 1
        weight = self.kernels[str(choice.kernel)][: choice.out, : choice.inputs]
        x, padding = self.padded(choice, x)
        return F.conv2d(x, weight, None, self.config.stride, padding, groups=groups)

    def padded(self, choice: UnitChoice, x: Tensor) -> tuple[Tensor, int]:
        """Return what a convolution takes, and the zeros that it has to add on each side."""
        if self.config.padding == "same" and self.config.stride > 1:
            return _padded(x, choice.kernel, self.config.stride), 0
        return x, choice.kernel // 2

    def total(self, choice: UnitChoice, number: int, eps: float, x: Tensor) -> Tensor:
        """Convolve and normalise by a set of statistics; shapes as `convolve`."""
        if not self.config.fitted:
            return self.normalise(number, eps, self.convolve(choice, x))
        own = self.map(number)
        x, padding = self.padded(choice, x)
        return F.conv2d(x, own.weight, own.bias, self.config.stride, padding)

    def map(self, number: int) -> nn.Conv2d:
        """Return weight and bias of a fitted unit for a set of statistics."""
        own = self.maps[number]
        assert isinstance(own, nn.Conv2d)
        return own

    def folded(self, kernel: int, number: int, eps: float) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a kernel and a normalisation in one."""
        mean, variance = self.statistics[number]
        scale, shift = self.affine[number if len(self.affine) > 1 else 0]
        scale = scale / (variance + eps).sqrt()
        return self.kernels[str(kernel)] * scale[:, None, None, None], shift - mean * scale

    def normalise(self, number: int, eps: float, x: Tensor) -> Tensor:
        """Normalise [batch, channels, h, w] by a set of statistics."""
        channels = x.shape[1]
        mean, variance = self.statistics[number, :, :channels]
        scale, shift = self.affine[number if len(self.affine) > 1 else 0, :, :channels]
        return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, eps)

    def activate(self, choice: UnitChoice, x: Tensor) -> Tensor:
        """Apply what follows the normalisation; the shape stays."""
        x = _ACTIVATIONS[self.config.activation](x)
        if self.reduce is None or self.expand is None:
            return x
        inner = slice(choice.squeeze)
        y = F.linear(
            x.mean((2, 3)), self.reduce.weight[inner, : choice.out], self.reduce.bias[inner]
        )
        y = F.linear(
            F.relu(y), self.expand.weight[: choice.out, inner], self.expand.bias[: choice.out]
        )
        return x * F.hardsigmoid(y)[:, :, None, None]


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
        return lambda i, x: self.unit(i).total(choices[i], number, self.eps, x)

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
        y = _ACTIVATIONS[self.config.activation](y if added is None else y + added)
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

    def bytes(self, choices: Sequence[UnitChoice]) -> int:
        """Return the bytes of the weights of a call, with one set of statistics."""
        units = list(zip(self.config.normalised, choices, strict=True))
        statistics = sum(2 * own.out for unit, own in units if not unit.fitted)
        return 4 * (statistics + sum(unit_parameters(unit, own) for unit, own in units))

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
        self.mix = None if hidden is None else nn.Linear(in_max, hidden, bias=False)
        self.classifier = nn.Linear(in_max if hidden is None else hidden, labels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to logits [batch, labels]."""
        x = x.mean((2, 3))
        if self.mix is not None:
            x = _ACTIVATIONS[self.activation](F.linear(x, self.mix.weight[:, : x.shape[1]]))
        return F.linear(x, self.classifier.weight[:, : x.shape[1]], self.classifier.bias)

    def macs(self, channels: int) -> int:
        """Return the multiply-accumulates of one image."""
        labels = self.classifier.out_features
        if self.mix is None:
            return channels * labels
        return channels * self.mix.out_features + self.mix.out_features * labels

    def parameters_of(self, channels: int) -> int:
        """Return the parameters of the head cut to some channels."""
        return self.macs(channels) + self.classifier.out_features
