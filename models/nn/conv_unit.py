"""A convolution with a choice of channels and kernel sizes, and statistics for each choice.

A unit is a convolution, its normalisation by kept statistics, an activation and perhaps a
squeeze-excitation. Weights are the widest; a call reads leading channels. Statistics of batch
normalisation are no slices of one another: whatever was chosen up to a unit moves the distribution
of what comes in. So a unit keeps *sets* of them, and the caller says which.

Sources: Ioffe and Szegedy 2015, Batch Normalization, arXiv 1502.03167; Hu et al. 2018,
Squeeze-and-Excitation Networks, arXiv 1709.01507; Yu and Huang 2019, Universally Slimmable
Networks, arXiv 1903.05134, for statistics found after training, for each width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.blocks import Activation, UnitChoice, UnitConfig
from models.nn.calibrated import Calibrated
from models.nn.quantized import Roundable, rounded

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
}
_BOUNDS = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
MEAN, VARIANCE = 0, 1
SCALE, SHIFT = 0, 1


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad so that ceil(size / stride) pixels come out, the odd one of the zeros at the end."""
    edges: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        edges += [total // 2, total - total // 2]
    return F.pad(x, edges)


def _kept(tensors: Mapping[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict({name: nn.Parameter(own, False) for name, own in tensors.items()})


class FittedConv2d(nn.Conv2d, Roundable):
    """A convolution of which nothing is chosen; a unit runs it."""

    linears: ClassVar[dict[str, str]] = {"weight": "steps"}
    inner: ClassVar[int] = 3
    steps: nn.Parameter | None

    def __init__(self, choice: UnitChoice) -> None:
        super().__init__(choice.inputs, choice.out, choice.kernel)
        self.register_parameter("steps", None)


class ConvUnit(Calibrated):
    """A convolution, normalisation, activation and perhaps a squeeze-excitation.

    In 8 bits the normalisation is part of the convolution, whose weights all sets of statistics
    share. The squeeze-excitation stays as it is.

    Attributes:
        kernels: Weights by kernel size.
        steps: Of rounded weights, by kernel size; None until they are rounded.
        affine: Scale and shift, shape [1 or sets, 2, channels].
        statistics: Mean and variance, shape [sets, 2, channels]; narrower sets end in zeros.
        maps: Weights and biases by set, of a fitted unit, which has none of the above.
    """

    affine: Tensor
    statistics: Tensor
    steps: nn.ParameterDict | None

    def __init__(
        self, config: UnitConfig, in_max: int, choices: Sequence[UnitChoice], affines: int
    ) -> None:
        super().__init__()
        self.config = config
        self.bounds = _BOUNDS.get(config.activation, self.bounds)
        self.register_module("steps", None)
        self.reduce = self.expand = None
        out = in_max if config.out is None else max(config.out.values)
        if config.squeeze is not None:
            inner = max(config.squeeze.values)
            self.reduce, self.expand = nn.Linear(out, inner), nn.Linear(inner, out)
        own = choices if config.fitted else ()
        self.maps = nn.ModuleList(map(FittedConv2d, own))
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
        weight = self.kernels[str(choice.kernel)][: choice.out, : choice.inputs]
        x, padding = self.padded(choice, x)
        groups = self.groups(choice)
        return F.conv2d(x, weight, None, self.config.stride, padding, groups=groups)

    def groups(self, choice: UnitChoice) -> int:
        """Return the groups of channels: each alone where the convolution is depthwise."""
        return choice.inputs if self.config.out is None else 1

    def padded(self, choice: UnitChoice, x: Tensor) -> tuple[Tensor, int]:
        """Return what a convolution takes, and the zeros that it has to add on each side."""
        if self.config.padding == "same" and self.config.stride > 1:
            return _padded(x, choice.kernel, self.config.stride), 0
        return x, choice.kernel // 2

    def round_(self) -> None:
        """Replace the weights by rounded ones; those of a fitted unit round themselves."""
        if self.config.fitted:
            return
        made = {size: rounded(weight, 3) for size, weight in self.kernels.items()}
        self.kernels = _kept({size: weight for size, (weight, _) in made.items()})
        self.steps = _kept({size: steps for size, (_, steps) in made.items()})

    def forward(self, x: Tensor, choice: UnitChoice, number: int, eps: float) -> Tensor:
        """Convolve and normalise by a set of statistics; shapes as `convolve`.

        In 8 bits what comes is cut off as a ReLU cuts it, where one follows.
        """
        if self.config.fitted:
            return self._fitted(self.map(number), choice, x)
        if self.steps is None:
            return self.normalise(number, eps, self.convolve(choice, x))
        x, padding = self.padded(choice, x)
        size, out = str(choice.kernel), slice(choice.out)
        weight, steps = self.kernels[size][out, : choice.inputs], self.steps[size][out]
        scale, shift = self._line(number, eps, out)
        stride, groups = self.config.stride, self.groups(choice)
        return self.int8(x, weight, steps * scale, stride, padding, shift, groups)

    def _fitted(self, own: FittedConv2d, choice: UnitChoice, x: Tensor) -> Tensor:
        x, padding = self.padded(choice, x)
        if own.steps is None:
            return F.conv2d(x, own.weight, own.bias, self.config.stride, padding)
        return self.int8(x, own.weight, own.steps, self.config.stride, padding, own.bias)

    def map(self, number: int) -> FittedConv2d:
        """Return weight and bias of a fitted unit for a set of statistics."""
        own = self.maps[number]
        assert isinstance(own, FittedConv2d)
        return own

    def folded(self, kernel: int, number: int, eps: float) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a kernel and a normalisation in one."""
        scale, shift = self._line(number, eps, slice(None))
        return self.kernels[str(kernel)] * scale[:, None, None, None], shift

    def _line(self, number: int, eps: float, out: slice) -> tuple[Tensor, Tensor]:
        """Return what a set of statistics multiplies each channel by, and then adds."""
        mean, variance = self.statistics[number, :, out]
        scale, shift = self.affine[number if len(self.affine) > 1 else 0, :, out]
        scale = scale / (variance + eps).sqrt()
        return scale, shift - mean * scale

    def normalise(self, number: int, eps: float, x: Tensor) -> Tensor:
        """Normalise [batch, channels, h, w] by a set of statistics."""
        channels = x.shape[1]
        mean, variance = self.statistics[number, :, :channels]
        scale, shift = self.affine[number if len(self.affine) > 1 else 0, :, :channels]
        return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, eps)

    def activate(self, choice: UnitChoice, x: Tensor) -> Tensor:
        """Apply what follows the normalisation; the shape stays."""
        x = ACTIVATIONS[self.config.activation](x)
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
