"""Layers of a vision transformer of which the embedding is sliced too, with positions in 2D.

Weights are the widest. A call reads leading rows and columns: of the embedding by what comes in, of
heads and feed-forward units by what is asked. Norms are over the sliced embedding.

Sources: Chen et al. 2021, AutoFormer, arXiv 2107.00651, for entangled weights; Wu et al. 2021,
Rethinking Relative Position Encoding for Vision Transformer, arXiv 2107.14222, for positions of
rows and columns on keys and values.
"""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchTokens(nn.Module):
    """A class token and one token per patch, each with its position."""

    def __init__(self, hidden: int, size: int, tokens: int) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.randn(hidden, 3, size, size) * 0.02)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.first = nn.Parameter(torch.zeros(hidden))
        self.position = nn.Parameter(torch.zeros(tokens, hidden))

    def forward(self, hidden: int, images: Tensor) -> Tensor:
        """Map [batch, 3, height, width] to [batch, tokens, hidden]."""
        x = F.conv2d(images, self.weight[:hidden], self.bias[:hidden], stride=self.size)
        x = x.flatten(2).transpose(1, 2)
        first = self.first[:hidden].expand(x.shape[0], 1, hidden)
        return torch.cat((first, x), dim=1) + self.position[:, :hidden]

    def macs(self, hidden: int) -> int:
        """Return the multiply-accumulates of one image."""
        return (len(self.position) - 1) * 3 * self.size**2 * hidden

    def bytes(self, hidden: int) -> int:
        """Return the bytes of the weights of a call."""
        return 4 * hidden * (3 * self.size**2 + 2 + len(self.position))


class SlicedNorm(nn.Module):
    """A layer norm over the leading part of an embedding."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., hidden]."""
        n = x.shape[-1]
        return F.layer_norm(x, (n,), self.weight[:n], self.bias[:n], self.eps)


class EntangledLayer(nn.Module):
    """Attention with relative positions in two dimensions and a feed-forward part, pre-norm."""

    query: nn.Parameter
    key: nn.Parameter
    value: nn.Parameter
    qkv_bias: nn.Parameter
    out: nn.Parameter
    out_bias: nn.Parameter
    up: nn.Parameter
    up_bias: nn.Parameter
    down: nn.Parameter
    down_bias: nn.Parameter
    key_rows: nn.Parameter
    key_columns: nn.Parameter
    value_rows: nn.Parameter
    value_columns: nn.Parameter

    def __init__(
        self, hidden: int, heads: int, head_dim: int, ffn: int, farthest: int, eps: float
    ) -> None:
        """Make a layer.

        Args:
            hidden: Width of the embedding, at most.
            heads: At most.
            head_dim: Of each head.
            ffn: Feed-forward units, at most.
            farthest: Distance in patches from which positions are told apart no more.
            eps: Of the norms.
        """
        super().__init__()
        inner, places = heads * head_dim, 2 * farthest + 2
        self.head_dim, self.farthest = head_dim, farthest
        self.attention_norm, self.ffn_norm = SlicedNorm(hidden, eps), SlicedNorm(hidden, eps)
        shapes: dict[str, tuple[int, ...]] = {
            "query": (inner, hidden),
            "key": (inner, hidden),
            "value": (inner, hidden),
            "qkv_bias": (3 * inner,),
            "out": (hidden, inner),
            "out_bias": (hidden,),
            "up": (ffn, hidden),
            "up_bias": (ffn,),
            "down": (hidden, ffn),
            "down_bias": (hidden,),
            "key_rows": (places, head_dim),
            "key_columns": (places, head_dim),
            "value_rows": (places, head_dim),
            "value_columns": (places, head_dim),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape) * 0.02))

    def forward(self, heads: int, units: int, x: Tensor) -> Tensor:
        """Map [batch, tokens, hidden] with the first heads and units."""
        x = x + self._attend(heads, self.attention_norm(x))
        hidden = x.shape[2]
        inner = F.gelu(F.linear(self.ffn_norm(x), self.up[:units, :hidden], self.up_bias[:units]))
        return x + F.linear(inner, self.down[:hidden, :units], self.down_bias[:hidden])

    def _attend(self, heads: int, x: Tensor) -> Tensor:
        batch, tokens, hidden = x.shape
        inner = heads * self.head_dim
        # The bias of a narrower layer is a prefix of the whole one, cut in three afterwards.
        biases = torch.split(self.qkv_bias[: 3 * inner], inner)
        query, key, value = (
            F.linear(x, weight[:inner, :hidden], bias)
            .view(batch, tokens, heads, self.head_dim)
            .transpose(1, 2)
            for weight, bias in zip((self.query, self.key, self.value), biases, strict=True)
        )
        query = query * self.head_dim**-0.5
        rows, columns = self._places(tokens, x.device)
        of_keys = self.key_rows[rows] + self.key_columns[columns]
        scores = query @ key.transpose(2, 3) + _by_token(query, of_keys.transpose(1, 2))
        weights = scores.softmax(3)
        of_values = self.value_rows[rows] + self.value_columns[columns]
        said = weights @ value + _by_token(weights, of_values)
        said = said.transpose(1, 2).flatten(2)
        return F.linear(said, self.out[:hidden, :inner], self.out_bias[:hidden])

    def _places(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the tables' rows of each pair of tokens, shape [tokens, tokens]; 0: the class."""
        side = isqrt(tokens - 1)
        place = torch.arange(tokens - 1, device=device)
        found = []
        for own in (place // side, place % side):
            apart = (own[None, :] - own[:, None]).clamp(-self.farthest, self.farthest)
            found.append(F.pad(apart + self.farthest + 1, (1, 0, 1, 0)))
        return found[0], found[1]

    def macs(self, hidden: int, heads: int, units: int, tokens: int) -> int:
        """Return the multiply-accumulates of one image: products with positions included."""
        inner = heads * self.head_dim
        products = 4 * tokens * inner
        return tokens * (4 * inner * hidden + products + 2 * units * hidden)

    def bytes(self, hidden: int, heads: int, units: int) -> int:
        """Return the bytes of the weights of a call."""
        inner = heads * self.head_dim
        maps = 4 * inner * hidden + 2 * units * hidden
        vectors = 3 * inner + units + 6 * hidden
        return 4 * (maps + vectors + 4 * self.key_rows.numel())


def _by_token(x: Tensor, table: Tensor) -> Tensor:
    """Multiply each token's row by the table of this token.

    Args:
        x: Shape [batch, heads, tokens, n].
        table: Shape [tokens, n, m].

    Returns:
        Shape [batch, heads, tokens, m].
    """
    batch, heads, tokens, _ = x.shape
    rows = x.permute(2, 0, 1, 3).flatten(1, 2)
    return (rows @ table).view(tokens, batch, heads, -1).permute(1, 2, 0, 3)
