"""From maps to tokens of some of their patches, and from any tokens back to a whole grid.

Patches are kept in an order in which the first ones are spread over the whole map, so that a few
see something of everything. A grid has a vector for each place: what the tokens there say, and what
attention from there reads of all tokens, nearer ones sooner.

Sources: Bachmann et al. 2022, MultiMAE, arXiv 2204.01678, for few tokens of several kinds of maps
and attention from all places to them; Bayer 1973, An optimum method for two-level rendition of
continuous-tone pictures, for the order; Press et al. 2022, arXiv 2108.12409, for a distance in the
scores of attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.padded import PaddedLayout
from models.nn.ragged import Layout, Ragged
from models.nn.transformer import Layer

Size = tuple[int, int]
_BITS = 8  # of a place along one side; beyond, the order repeats


def spread_order(size: Size, shift: int) -> Tensor:
    """Return the places of a grid, row by row, in an order whose first ones are far apart.

    Args:
        size: Rows and columns.
        shift: Orders of different shifts begin at different places.

    Returns:
        int64, shape [places].
    """
    height, width = size
    y = torch.arange(height)[:, None] + shift // 2
    x = torch.arange(width)[None, :] + shift % 2 + shift // 2
    later = torch.zeros(size, dtype=torch.int64)
    for bit in range(_BITS):
        odd_y, odd_x = (y >> bit) & 1, (x >> bit) & 1
        # Of four neighbours first one, then that across, then the other two.
        later = 4 * later + 2 * (odd_y ^ odd_x) + odd_y
    return later.flatten().argsort(stable=True)


class KeptPatches(nn.Module):
    """A linear map of some patches of a map, and their positions.

    Attributes:
        position: Of patches in the order in which they are kept, shape [patches, hidden].
        order: Place of each in the grid, row by row, shape [patches].
    """

    order: Tensor

    def __init__(
        self,
        channels: int,
        grid: Size,
        side: int,
        hidden: int,
        shift: int,
        scale: tuple[float, float],
    ) -> None:
        """Draw weights.

        Args:
            channels: Of the map.
            grid: Rows and columns of patches.
            side: Of a patch, pixels.
            hidden: Width of a token.
            shift: Of the order; see `spread_order`.
            scale: Subtracted from what is in the map, and divided by.
        """
        super().__init__()
        self.grid, self.side, self.scale = grid, side, scale
        inputs = channels * side * side
        self.weight = nn.Parameter(torch.randn(hidden, inputs) * inputs**-0.5)
        self.position = nn.Parameter(torch.randn(grid[0] * grid[1], hidden) * 0.2)
        self.register_buffer("order", spread_order(grid, shift), persistent=False)

    def forward(self, kept: int | Tensor, maps: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to tokens [batch, kept, hidden].

        Args:
            kept: How many patches, the first ones; or their numbers in the order.
            maps: Of which other patches may hold anything.
        """
        which = slice(kept) if isinstance(kept, int) else kept
        (rows, columns), side = self.grid, self.side
        batch, channels = maps.shape[:2]
        cut = maps.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        patches = cut.flatten(3).flatten(1, 2)[:, self.order[which]]
        middle, spread = self.scale
        return F.linear((patches - middle) / spread, self.weight) + self.position[which]

    def macs(self, kept: int) -> int:
        """Return the multiply-accumulates of one map."""
        return kept * self.weight.numel()

    def bytes(self, kept: int) -> int:
        """Return the bytes of the weights of a call."""
        return 4 * self.weight.numel() + kept * (4 * self.position.shape[1] + 8)


def joined(*parts: Tensor) -> Tensor:
    """Return tokens of several maps, each [batch, kept, hidden], one map after the other."""
    return torch.cat(parts, dim=1)


class _Whole(PaddedLayout):
    """Rows that all are as long, any number of them."""

    def mask(self, causal: bool = False, window: int | None = None) -> None:
        """Return None: every token sees all of its row."""


def run_layer(layer: Layer, groups: int, units: int, x: Tensor) -> Tensor:
    """Run a layer on as many tokens in every row, [batch, tokens, hidden]; see `Layer.forward`."""
    batch, number = x.shape[:2]
    layout: Layout
    if torch.compiler.is_exporting():  # the number of rows stays open
        layout = _Whole(torch.ones(batch, number, dtype=torch.bool, device=x.device))
    else:
        layout = Layout([number] * batch, x.device)
    packed: Ragged = layer(groups, units, Ragged(x.flatten(0, 1), layout))
    return packed.values.view(x.shape)


class TokenGrid(nn.Module):
    """A vector for each place of a grid, from tokens at some places.

    Attributes:
        query: Of each place, shape [heads, places, head_dim].
        base: What a place has without any token, shape [places, hidden].
        near: How much each head's scores fall with each place of distance, before a softplus.
    """

    def __init__(self, grid: Size, hidden: int, heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.grid, self.heads, places = grid, heads, grid[0] * grid[1]
        self.norm = nn.LayerNorm(hidden, eps)
        self.query = nn.Parameter(torch.randn(heads, places, head_dim) * 0.2)
        self.base = nn.Parameter(torch.zeros(places, hidden))
        self.near = nn.Parameter(torch.linspace(1.0, -2.0, heads))
        self.memory = nn.Linear(hidden, 2 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, hidden)

    def forward(self, places: Sequence[Tensor], x: Tensor) -> Tensor:
        """Map tokens to a grid, shape [batch, hidden, rows, columns].

        Args:
            places: Of the tokens of each map of a row, one map after the other.
            x: Tokens, shape [batch, tokens, hidden].
        """
        tokens = self.norm(x)
        batch, number = tokens.shape[:2]
        memory = self.memory(tokens).view(batch, number, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        every = self.query.shape[1]
        query = self.query.expand(batch, -1, -1, -1)
        far = self._far(torch.cat(list(places)), every)
        scores = query @ memory[0].transpose(2, 3) * query.shape[3] ** -0.5
        scores = scores - F.softplus(self.near)[:, None, None] * far
        read = scores.softmax(3) @ memory[1]
        found = self.out(read.transpose(1, 2).flatten(2)) + self.base
        own, first = [], 0
        counts = tokens.new_zeros(every)
        for at in places:
            there = tokens[:, first : first + len(at)]
            # Of places without a token the last row is taken, which is empty.
            row = torch.full((every,), len(at), device=at.device).scatter(
                0, at, torch.arange(len(at), device=at.device)
            )
            own.append(F.pad(there, (0, 0, 0, 1))[:, row])
            counts = counts + (row < len(at))
            first += len(at)
        found = found + torch.stack(own).sum(0) / counts.clamp_min(1)[:, None]
        grid: Tensor = found.transpose(1, 2).unflatten(2, self.grid)
        return grid

    def _far(self, places: Tensor, every: int) -> Tensor:
        """Return how many places apart each place and each token are, shape [places, tokens]."""
        columns, here = self.grid[1], torch.arange(every, device=places.device)[:, None]
        down = here // columns - places // columns
        across = here % columns - places % columns
        return (down.square() + across.square()).float().sqrt()

    def macs(self, tokens: int) -> int:
        """Return the multiply-accumulates of one row of tokens."""
        every, inner = self.query.shape[1], self.out.in_features
        maps = 2 * tokens * inner + every * inner
        return maps * self.out.out_features + 2 * every * tokens * inner
