"""The exit of an encoder: from packed hidden states to a vector per row."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.architecture import TransformerConfig
from models.nn.ragged import Ragged
from models.nn.transformer import make_norm


class ExitConfig(Protocol):
    """What an exit goes by; `models.families.exits.ExitsConfig` says what each field means."""

    @property
    def encoder(self) -> TransformerConfig: ...  # noqa: D102
    @property
    def pooling(self) -> Literal["mean", "cls", "last"]: ...  # noqa: D102
    @property
    def exit_norm(self) -> str: ...  # noqa: D102
    @property
    def projection(self) -> int | None: ...  # noqa: D102
    @property
    def projection_activation(self) -> str: ...  # noqa: D102
    @property
    def condition(self) -> int: ...  # noqa: D102


class Exit(nn.Module):
    """From the packed hidden states of one depth to a vector per row."""

    def __init__(self, config: ExitConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.norm = make_norm(config.encoder) if config.exit_norm == "own" else None
        self.condition: nn.Parameter | None = None
        self.projection: nn.Linear | None = None
        self.has_tanh = config.projection_activation == "tanh"
        if config.projection:
            width = config.encoder.hidden + config.condition
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
        pooled: Tensor = getattr(hidden.layout, _POOLING[self.pooling])(values)
        if self.projection is not None:
            if self.condition is not None:
                pooled = torch.cat((pooled, self.condition.expand(pooled.shape[0], -1)), dim=1)
            pooled = F.linear(pooled, self.projection.weight[:dim], self.projection.bias[:dim])
            if self.has_tanh:
                pooled = pooled.tanh()
        return pooled[:, :dim]

    def macs(self, dim: int) -> int:
        """Return the multiply-accumulates of one row."""
        return 0 if self.projection is None else dim * self.projection.in_features


def pooled(exit_: Exit, dim: int, final_norm: nn.Module | None, hidden: Ragged) -> Tensor:
    """Map the packed output of a layer to vectors, shape [rows, dim]."""
    vectors: Tensor = exit_(dim, final_norm, hidden)
    return vectors


def unit_vectors(exit_: Exit, dim: int, final_norm: nn.Module | None, hidden: Ragged) -> Tensor:
    """Map the packed output of a layer to unit vectors, cut first, then normalised."""
    return F.normalize(pooled(exit_, dim, final_norm, hidden), dim=1)


_POOLING = {"mean": "mean", "cls": "first", "last": "last"}
