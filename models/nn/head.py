"""What follows the pooling: linear layers, activations and norms, a vector per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

HeadActivation = Literal["identity", "tanh", "gelu", "relu", "sigmoid", "silu"]
HEAD_ACTIVATIONS: dict[HeadActivation, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
}


@dataclass(frozen=True)
class HeadLayer:
    """One layer of a head.

    Attributes:
        kind: ``linear``: a linear map with a bias, then the activation. ``norm``: a layer norm.
        width: Of what it gives; of a norm that of what it takes.
        activation: After a linear map.
        eps: Of a norm, added to the variance.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    kind: Literal["linear", "norm"]
    width: int
    activation: HeadActivation = "identity"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse a layer without width."""
        if self.width < 1:
            raise ValueError(f"head: width={self.width} must be 1 or more")


class Head(nn.ModuleList):
    """Layers one after the other, each on all of what the one before gives."""

    def __init__(self, inputs: int, layers: Sequence[HeadLayer]) -> None:
        super().__init__()
        self.activations: list[HeadActivation] = [layer.activation for layer in layers]
        for layer in layers:
            if layer.kind == "linear":
                self.append(nn.Linear(inputs, layer.width))
            elif layer.width != inputs:
                raise ValueError(f"head: a norm of width {layer.width} takes {inputs} values")
            else:
                self.append(nn.LayerNorm(inputs, layer.eps))
            inputs = layer.width
        self.width = inputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [rows, inputs] to [rows, width]."""
        for layer, activation in zip(self, self.activations, strict=True):
            x = HEAD_ACTIVATIONS[activation](layer(x))
        return x

    def macs(self) -> int:
        """Return the multiply-accumulates of one row."""
        return sum(one.in_features * one.out_features for one in self if isinstance(one, nn.Linear))
