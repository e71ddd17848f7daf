"""ONNX forms of the operators that torch has not.

Pairs of QuantizeLinear and DequantizeLinear around a product are how standard ONNX says that it is
one of whole numbers. ONNX Runtime makes one integer kernel of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import numpy_helper
from onnxscript import opset23 as op

from models.nn import quantized

_LAST_AXIS = np.array([-1], dtype=np.int64)
_MIDDLE = np.uint8(128)  # whole numbers of values as uint8: processors multiply these with int8


def _int8_linear(x: Any, weight: Any, steps: Any, bias: Any = None) -> Any:
    """Return what `models.nn.quantized` computes, in the same order.

    Each row is divided by its step first and rounded by steps of 1: the runtime rounds a whole
    batch by one step in one go, and by a step for each row in a call for each.
    """
    most = op.Max(
        op.ReduceMax(x, _constant(_LAST_AXIS), keepdims=1),
        op.Neg(op.ReduceMin(x, _constant(_LAST_AXIS), keepdims=1)),
    )
    step = op.Max(op.Mul(most, _number(1 / quantized.MOST)), _number(quantized.LEAST_STEP))
    one, middle = _number(1.0), _constant(_MIDDLE)
    whole = op.QuantizeLinear(op.Div(x, step), one, middle)
    values: Any = op.DequantizeLinear(whole, one, middle)
    sums = op.MatMul(values, op.DequantizeLinear(weight, steps, axis=1))
    scaled = op.Mul(sums, step)
    return scaled if bias is None else op.Add(scaled, bias)


def _int8_conv(
    x: Any,
    weight: Any,
    steps: Any,
    bias: Any,
    low: float,
    high: float,
    most: float,
    is_positive: bool,
    stride: int,
    padding: int,
    groups: int,
) -> Any:
    """Return what `models.nn.quantized` computes, in the form of which kernels are made."""
    step, zero, out_step = quantized.Ranges(low, high, most).steps(is_positive)
    given = _number(step), _constant(np.uint8(zero))
    values: Any = op.DequantizeLinear(op.QuantizeLinear(x, *given), *given)
    weights: Any = op.DequantizeLinear(weight, steps, axis=0)
    added = (
        () if bias is None else (op.DequantizeLinear(bias, op.Mul(steps, _number(step)), axis=0),)
    )
    sums = op.Conv(values, weights, *added, strides=[stride] * 2, pads=[padding] * 4, group=groups)
    comes = _number(out_step), _constant(np.uint8(0) if is_positive else _MIDDLE)
    found: Any = op.DequantizeLinear(op.QuantizeLinear(sums, *comes), *comes)
    return found


def _number(value: float) -> Any:
    return _constant(np.float32(value))


def _constant(value: Any) -> Any:
    return op.Constant(value=numpy_helper.from_array(np.asarray(value)))


FORMS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    quantized.int8_linear: _int8_linear,
    quantized.int8_conv: _int8_conv,
}
