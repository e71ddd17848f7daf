"""Convolutions that are rounded by steps of a range that calibration images show.

A model names the ranges of its convolutions in its configuration. They are found by running it on
images with float weights, and are one for each convolution, whatever is chosen of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from models.nn.quantized import Ranges, Roundable, bias_in, int8_conv

RangesByName = Mapping[str, tuple[float, float, float]]
"""By name of a convolution in its model: see `models.nn.quantized.Ranges`."""


class Calibrated(Roundable):
    """A convolution; what it is called with has one tensor, the values that it takes.

    Attributes:
        ranges: Of what it takes and gives; None until they are known, which 8 bits need.
        bounds: What comes is cut off at, because what follows it does so.
    """

    bounds: tuple[float, float] = (-math.inf, math.inf)

    def __init__(self) -> None:
        super().__init__()
        self.ranges: Ranges | None = None

    def int8(
        self,
        x: Tensor,
        weight: Tensor,
        steps: Tensor,
        stride: int,
        padding: int,
        bias: Tensor | None = None,
        groups: int = 1,
    ) -> Tensor:
        """Convolve with rounded weights.

        Args:
            x: Shape [batch, in, height, width].
            weight: int8, shape [out, in / groups, kernel, kernel].
            steps: Of each output's weights, shape [out].
            stride: Of the convolution.
            padding: With zeros on each side.
            bias: Shape [out].
            groups: Of channels; 1, or as many as there are channels.

        Returns:
            Shape [batch, out, height / stride, width / stride], rounded up; cut off at ``bounds``
            where these begin at 0.
        """
        assert self.ranges is not None, "or no weights are rounded"
        whole = None
        if bias is not None:
            steps, whole = bias_in(steps, bias, self.ranges.steps()[0])
        found: Tensor = int8_conv(
            x, weight, steps, whole, *self.ranges, self.is_positive, stride, padding, groups
        )
        return found

    @property
    def is_positive(self) -> bool:
        """Whether what comes is cut off below 0."""
        return self.bounds[0] == 0

    def widened(self, ranges: Ranges | None, x: Tensor, y: Tensor) -> Ranges:
        """Return ranges that hold what was taken and given in a call too."""
        low, high, most = ranges or (0.0, 0.0, 0.0)
        least, greatest = x.aminmax()
        given = float(y.clamp(*self.bounds).abs().max())
        return Ranges(min(low, float(least)), max(high, float(greatest)), max(most, given))


def check_ranges(ranges: RangesByName) -> None:
    """Refuse ranges that cannot be; ValueError naming one."""
    for name, (low, high, given) in ranges.items():
        if not (-math.inf < low <= 0 <= high < math.inf and 0 <= given < math.inf):
            raise ValueError(f"ranges.{name}={[low, high, given]} must enclose 0 and be finite")


def calibrated(model: nn.Module) -> dict[str, Calibrated]:
    """Return the convolutions of a model that 8 bits round, by name."""
    parts = model.named_modules()
    return {name: one for name, one in parts if isinstance(one, Calibrated)}


def take_ranges(model: nn.Module, ranges: RangesByName, bits: Sequence[int]) -> None:
    """Give each convolution its ranges; ValueError if fewer bits are on offer and one has none."""
    for name, conv in calibrated(model).items():
        if name in ranges:
            conv.ranges = Ranges(*ranges[name])
        elif len(bits) > 1:
            raise ValueError(f"ranges lacks {name!r}, which bits={list(bits)} needs")


@contextmanager
def seen(model: nn.Module) -> Iterator[dict[str, Ranges]]:
    """Yield the ranges of a model's convolutions, by name, in the calls until the end of the block.

    Args:
        model: With float weights.
    """
    found: dict[str, Ranges] = {}

    def note(name: str, conv: Calibrated, args: tuple[object, ...], y: Tensor) -> None:
        (x,) = (one for one in args if isinstance(one, Tensor))
        found[name] = conv.widened(found.get(name), x, y)

    hooks = [
        conv.register_forward_hook(partial(note, name)) for name, conv in calibrated(model).items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
