"""Linear layers and convolutions in int8: weights are rounded by a step per output.

Values of a linear layer are rounded by a step per row, found from the row: nothing is calibrated.
Values of a convolution are rounded by one step and its results by another, both from calibration
(`Ranges`): integer kernels that are given both are twice as fast as others. Either way an answer
depends on nothing else in its batch, slices of the weights are slices of the rounded ones, and
sums of products are whole numbers, exact on every back end.

A value near the middle between two whole numbers may be rounded to either side, as back ends differ
in the last bits of what comes before. `ROUNDED` bounds what may come of that.

Source: Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, for steps per row and per output channel
(vector-wise quantisation); Jacob et al. 2018, Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference, arXiv 1712.05877, for calibrated ranges.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROUNDED = 0.04  # of a layer's rows, as `models.core.Step` counts; the most that was seen: 0.013
MOST = 127.0
_MOST_UNSIGNED, _MIDDLE = 255, 128
_MOST_BIAS = 2.0**30  # leaves room in int32 for the sums
LEAST_STEP = 1e-12  # of a row of zeros

M = TypeVar("M", bound=nn.Module)


def _int8_linear(x: Tensor, weight: Tensor, steps: Tensor, bias: Tensor | None) -> Tensor:
    """Round each row and multiply it with rounded weights.

    Args:
        x: Shape [rows, in].
        weight: int8, shape [in, out].
        steps: Of each output's weights, shape [out].
        bias: Shape [out].

    Returns:
        Shape [rows, out].
    """
    most = torch.maximum(x.amax(1, keepdim=True), -x.amin(1, keepdim=True))
    step = (most * (1 / MOST)).clamp_min_(LEAST_STEP)
    rounded = (x / step).round_()
    if x.device.type == "cpu":
        sums = torch._int_mm(rounded.to(torch.int8), weight).to(x.dtype)
    else:  # devices' integer products want sizes that rows of text seldom have
        sums = rounded @ weight.to(x.dtype)
    sums.mul_(steps).mul_(step)
    return sums if bias is None else sums.add_(bias)


def _shaped(x: Tensor, weight: Tensor, steps: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


# One operator, so that back ends can give it a form of their own. `torch.library.custom_op` would
# do, but its first call imports torch's compiler, which takes more than a second.
_LIBRARY: Any = torch.library.Library("rheostat", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("int8_linear(Tensor x, Tensor weight, Tensor steps, Tensor? bias) -> Tensor")
_LIBRARY.impl("int8_linear", _int8_linear, "CPU")
_LIBRARY.impl("int8_linear", _int8_linear, "CUDA")
_LIBRARY.impl("int8_linear", _shaped, "Meta")
int8_linear = torch.ops.rheostat.int8_linear.default


class Ranges(NamedTuple):
    """What a convolution takes and gives, as seen on calibration images.

    Attributes:
        low: Least value taken, at most 0.
        high: Greatest.
        most: Greatest magnitude given.
    """

    low: float
    high: float
    most: float

    def steps(self, is_positive: bool = False) -> tuple[float, int, float]:
        """Return the step of what is taken, the whole number that is its 0, and what comes' step.

        Args:
            is_positive: Whether what comes is cut off below 0; then all whole numbers are above.
        """
        step = max(self.high - self.low, LEAST_STEP) / _MOST_UNSIGNED
        levels = _MOST_UNSIGNED if is_positive else MOST
        return step, round(-self.low / step), max(self.most, LEAST_STEP) / levels


def _int8_conv(
    x: Tensor,
    weight: Tensor,
    steps: Tensor,
    bias: Tensor | None,
    low: float,
    high: float,
    most: float,
    is_positive: bool,
    stride: int,
    padding: int,
    groups: int,
) -> Tensor:
    """Round what is taken, convolve it with rounded weights, and round what comes.

    Args:
        x: Shape [batch, in, height, width].
        weight: int8, shape [out, in / groups, kernel, kernel].
        steps: Of each output's weights, shape [out].
        bias: int32, shape [out], in steps of weights times those of what is taken (`bias_in`).
        low: See `Ranges`.
        high: Likewise.
        most: Likewise.
        is_positive: Whether what comes is cut off below 0.
        stride: Of the convolution.
        padding: With zeros on each side.
        groups: Of channels; 1, or as many as there are channels.

    Returns:
        Shape [batch, out, height / stride, width / stride], rounded up.
    """
    step, zero, out_step = Ranges(low, high, most).steps(is_positive)
    whole = (x / step).round_().add_(zero).clamp_(0, _MOST_UNSIGNED)
    if x.device.type == "cpu" and groups == 1:
        sums = _convolved(
            whole.sub_(_MIDDLE).to(torch.int8), zero - _MIDDLE, weight, stride, padding
        )
    else:  # exact for a channel alone: its sums are small
        whole.sub_(zero)
        sums = F.conv2d(whole, weight.to(x.dtype), None, stride, padding, groups=groups)
    if bias is not None:
        sums += bias[:, None, None]
    sums = sums * (steps * (step / out_step))[:, None, None]
    least, most = (0, _MOST_UNSIGNED) if is_positive else (-MOST - 1, MOST)
    return sums.round_().clamp_(least, most).mul_(out_step)


def _convolved(x: Tensor, zero: int, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolve whole numbers by one product of what each pixel sees, which is padded with zeros.

    Args:
        x: int8, shape [batch, in, height, width].
        zero: The number that stands for 0.
        weight: int8, shape [out, in, kernel, kernel].
        stride: As for `_int8_conv`.
        padding: Likewise.

    Returns:
        int32, shape [batch, out, height, width].
    """
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4), value=zero)
    kernel = weight.shape[2]
    height, width = ((side - kernel) // stride + 1 for side in x.shape[1:3])
    seen = [
        x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]
    rows = torch.cat(seen, dim=3).flatten(0, 2)
    sums = torch._int_mm(rows, weight.permute(2, 3, 1, 0).flatten(0, 2))
    sums -= zero * weight.sum((1, 2, 3), dtype=torch.int32)
    return sums.view(len(x), height, width, -1).permute(0, 3, 1, 2)


def _conv_shaped(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    stride, padding, _ = rest[-3:]
    sides = ((side + 2 * padding - weight.shape[2]) // stride + 1 for side in x.shape[2:])
    return x.new_empty(x.shape[0], weight.shape[0], *sides)


_LIBRARY.define(
    "int8_conv(Tensor x, Tensor weight, Tensor steps, Tensor? bias, float low, float high, "
    "float most, bool is_positive, int stride, int padding, int groups) -> Tensor"
)
_LIBRARY.impl("int8_conv", _int8_conv, "CPU")
_LIBRARY.impl("int8_conv", _int8_conv, "CUDA")
_LIBRARY.impl("int8_conv", _conv_shaped, "Meta")
int8_conv = torch.ops.rheostat.int8_conv.default


def bias_in(steps: Tensor, bias: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Return the steps of weights, and a bias as whole numbers of these times another step.

    Where next to nothing is left of an output's weights, their step becomes as large as it must be
    for the bias to be such a number: the weights then add a thousandth of the bias or less.

    Args:
        steps: Of each output's weights; may be 0 or below, where a normalisation is folded in.
        bias: Shape [out].
        step: Of what is taken.

    Returns:
        Steps, and int32, each of shape [out].
    """
    least = (bias.abs() / (step * _MOST_BIAS)).clamp_min(LEAST_STEP)
    steps = torch.where(steps.abs() < least, least, steps)
    return steps, (bias / (steps * step)).round().to(torch.int32)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, steps: Tensor | None) -> Tensor:
    """Apply a linear layer.

    Args:
        x: Shape [rows, in].
        weight: Shape [out, in]; int8 where there are steps.
        bias: Shape [out].
        steps: Of rounded weights, shape [out]; None where weights are not rounded.
    """
    if steps is None:
        return F.linear(x, weight, bias)
    product: Tensor = int8_linear(x, weight.t(), steps, bias)
    return product


def rounded(weight: Tensor, inner: int = 1) -> tuple[Tensor, Tensor]:
    """Round a weight to int8.

    Args:
        weight: Shape [..., in]; each index before the last dimensions is an output.
        inner: How many these are.

    Returns:
        The whole numbers, int8, of the same shape, and the step of each output.
    """
    last = tuple(range(-inner, 0))
    steps = (weight.abs().amax(last, keepdim=True) / MOST).clamp_min(LEAST_STEP)
    return (weight / steps).round().to(torch.int8), steps.flatten(-inner - 1)


def linear_bytes(inputs: int, outputs: int, bits: int) -> int:
    """Return the bytes of a linear layer's weights, without a bias."""
    return 4 * inputs * outputs if bits == 32 else (inputs + 4) * outputs


def bytes_of(*modules: nn.Module | None) -> int:
    """Return the bytes of all parameters and buffers of some modules."""
    return sum(
        tensor.nbytes
        for module in modules
        if module is not None
        for tensor in (*module.parameters(), *module.buffers())
    )


class Roundable(nn.Module):
    """A module with weights that can be rounded.

    Attributes:
        linears: Names of these, each with that of its steps, which is None until it is rounded.
        inner: Last dimensions of a weight that are no outputs.
    """

    linears: ClassVar[dict[str, str]]
    inner: ClassVar[int] = 1

    def round_(self) -> None:
        """Replace the weights by rounded ones, of the module's own."""
        for name, steps in self.linears.items():
            made = rounded(getattr(self, name), self.inner)
            for part, tensor in zip((name, steps), made, strict=True):
                self.register_parameter(part, nn.Parameter(tensor, requires_grad=False))


def int8_copy(module: M) -> M:
    """Return a module with rounded weights; it shares all others, and all modules without any."""
    if not any(isinstance(part, Roundable) for part in module.modules()):
        return module
    made = copy.copy(module)
    made._parameters = dict(module._parameters)
    made._modules = {
        name: part and int8_copy(part)  # some are None
        for name, part in module._modules.items()
    }
    if isinstance(made, Roundable):
        made.round_()
    return made
