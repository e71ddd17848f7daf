"""The exit of an encoder: from packed hidden states to a vector per row."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.architecture import TransformerConfig
from models.nn.head import HEAD_ACTIVATIONS, Head, HeadActivation, HeadLayer
from models.nn.pooling import Pooling, pooled_by, poolings_of
from models.nn.quantized import bytes_of
from models.nn.ragged import Ragged
from models.nn.transformer import make_norm


class ExitConfig(Protocol):
    """What an exit goes by; `models.families.exits.ExitsConfig` says what each field means."""

    @property
    def encoder(self) -> TransformerConfig: ...  # noqa: D102
    @property
    def pooling(self) -> Pooling | tuple[Pooling, ...]: ...  # noqa: D102
    @property
    def exit_norm(self) -> str: ...  # noqa: D102
    @property
    def head(self) -> tuple[HeadLayer, ...]: ...  # noqa: D102
    @property
    def projection(self) -> int | None: ...  # noqa: D102
    @property
    def projection_activation(self) -> HeadActivation: ...  # noqa: D102
    @property
    def condition(self) -> int: ...  # noqa: D102


def pooled_width(config: ExitConfig) -> int:
    """Return the width of what follows the pooling and the head, before any projection."""
    if config.head:
        return config.head[-1].width
    return config.encoder.hidden * len(poolings_of(config.pooling))


class Exit(nn.Module):
    """From the packed hidden states of one depth to a vector per row."""

    def __init__(self, config: ExitConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.norm = make_norm(config.encoder) if config.exit_norm == "own" else None
        self.head: Head | None = None
        if config.head:
            inputs = config.encoder.hidden * len(poolings_of(config.pooling))
            self.head = Head(inputs, config.head)
        self.condition: nn.Parameter | None = None
        self.projection: nn.Linear | None = None
        self.activation: HeadActivation = config.projection_activation
        if config.projection:
            width = pooled_width(config) + config.condition
            self.projection = nn.Linear(width, config.projection)
            if config.condition:
                self.condition = nn.Parameter(torch.randn(config.condition))

    def forward(self, dim: int, final_norm: nn.Module | None, hidden: Ragged) -> Tensor:
        """Map [tokens, hidden] to the first ``dim`` values of each row's vector, not normalised.

        A linear map commutes with the mean, so it is applied once per row, after pooling.
        """
        values = hidden.values
        norm = self.norm or final_norm
        if norm is not None:
            values = norm(values)
        pooled = pooled_by(self.pooling, hidden, values)
        if self.head is not None:
            pooled = self.head(pooled)
        if self.projection is not None:
            if self.condition is not None:
                pooled = torch.cat((pooled, self.condition.expand(pooled.shape[0], -1)), dim=1)
            pooled = F.linear(pooled, self.projection.weight[:dim], self.projection.bias[:dim])
            pooled = HEAD_ACTIVATIONS[self.activation](pooled)
        return pooled[:, :dim]

    def macs(self, dim: int) -> int:
        """Return the multiply-accumulates of one row."""
        macs = 0 if self.head is None else self.head.macs()
        return macs if self.projection is None else macs + dim * self.projection.in_features

    def bytes(self, dim: int, final_norm: nn.Module | None) -> int:
        """Return the bytes of the weights of a call with ``dim`` and the norm."""
        total = bytes_of(self, None if self.norm is not None else final_norm)
        if self.projection is None:
            return total
        left_out = self.projection.out_features - dim
        return total - 4 * left_out * (self.projection.in_features + 1)


def pooled(exit_: Exit, dim: int, final_norm: nn.Module | None, hidden: Ragged) -> Tensor:
    """Map the packed output of a layer to vectors, shape [rows, dim]."""
    vectors: Tensor = exit_(dim, final_norm, hidden)
    return vectors


def unit_vectors(exit_: Exit, dim: int, final_norm: nn.Module | None, hidden: Ragged) -> Tensor:
    """Map the packed output of a layer to unit vectors, cut first, then normalised."""
    return F.normalize(pooled(exit_, dim, final_norm, hidden), dim=1)
