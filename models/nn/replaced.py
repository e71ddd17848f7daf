"""Copies of modules with some other weights; they share all that is not replaced."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def with_weights(module: M, weights: Mapping[str, Tensor]) -> M:
    """Return a module with other parameters; the module itself where there are none.

    Args:
        module: Stays as it is.
        weights: By the names of its parameters.
    """
    if not weights:
        return module
    made = copy.copy(module)
    made._parameters, made._modules = dict(module._parameters), dict(module._modules)
    below: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        first, _, rest = name.partition(".")
        if rest:
            below.setdefault(first, {})[rest] = tensor
        else:
            made._parameters[first] = nn.Parameter(tensor, requires_grad=False)
    for first, own in below.items():
        inner = module._modules[first]
        assert inner is not None
        made._modules[first] = with_weights(inner, own)
    return made
