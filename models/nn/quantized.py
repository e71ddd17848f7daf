"""Linear layers in int8: weights are rounded by a step per output, values by a step per row.

The steps of weights are found once, the step of a row from the row. So an answer depends on nothing
else in its batch, slices of the weights are slices of the rounded ones, and nothing has to be
calibrated. Sums of products are whole numbers, exact on every back end.

A value near the middle between two whole numbers may be rounded to either side, as back ends differ
in the last bits of what comes before. `ROUNDED` bounds what may come of that.

Source: Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, for steps per row and per output channel
(vector-wise quantisation).
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROUNDED = 0.04  # of a layer's rows, as `models.core.Step` counts; the most that was seen: 0.013
MOST = 127.0
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


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to int8.

    Args:
        weight: Shape [..., in]; each index before the last is an output.

    Returns:
        The whole numbers, int8, of the same shape, and the step of each output, shape [...].
    """
    steps = (weight.abs().amax(-1) / MOST).clamp_min(LEAST_STEP)
    return (weight / steps[..., None]).round().to(torch.int8), steps


class Roundable(nn.Module):
    """A module with weights of linear layers that can be rounded.

    Attributes:
        linears: Names of these, each with that of its steps, which is None until it is rounded.
    """

    linears: ClassVar[dict[str, str]]

    def round_(self) -> None:
        """Replace the weights by rounded ones, of the module's own."""
        for name, steps in self.linears.items():
            for part, tensor in zip((name, steps), rounded(getattr(self, name)), strict=True):
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
