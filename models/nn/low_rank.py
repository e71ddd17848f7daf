"""Low-rank additions to linear maps, another one for each row of a batch.

What an adapter adds to a map is a product of two thin matrices. Those of all adapters lie in one
tensor each, and whatever is not low-rank is computed for all rows together. Leading slices of the
rank are adapters of less rank. On a device, in a graph and where gradients are taken, rows with
different adapters are one product of batches. Elsewhere neighbouring rows with the same adapter are
a product each: the products are thin, so padding rows costs several times what multiplying does.

Source: Hu et al. 2021, LoRA, arXiv 2106.09685; Sheng et al. 2023, S-LoRA, arXiv 2311.03285, for
batches of several adapters.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor, nn

from models.nn.ragged import Layout


class LowRank(nn.Module):
    """What adapters add to one linear map.

    Attributes:
        down: From what the map takes, shape [adapters, rank, inputs].
        up: To what it gives, shape [adapters, rank, outputs].
    """

    def __init__(self, adapters: int, rank: int, inputs: int, outputs: int) -> None:
        """Add nothing yet: ``up`` is zero."""
        super().__init__()
        self.down = nn.Parameter(torch.empty(adapters, rank, inputs))
        nn.init.normal_(self.down, std=inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(adapters, rank, outputs))

    def forward(
        self, rank: int, which: Tensor, layout: Layout, taken: Tensor, given: Tensor
    ) -> Tensor:
        """Add to what the map gives.

        Args:
            rank: Leading part of the rank that is computed.
            which: The adapter of each row, int64, shape [rows].
            layout: Of the tokens.
            taken: Shape [tokens, inputs], perhaps the leading ones.
            given: Shape [tokens, ...]; together the outputs, perhaps the leading ones. It may be
                changed.

        Returns:
            Of the shape of what was given.
        """
        outputs = given.shape[1:].numel()
        down, up = self.down[:, :rank, : taken.shape[1]], self.up[:, :rank, :outputs]
        if not layout.is_one_block:
            return _added_in_runs(down, up, which, layout, taken, given)
        down, up = (one.index_select(0, which) for one in (down, up))
        inner = torch.bmm(layout.pad(taken), down.transpose(1, 2))
        added = layout.unpad(torch.bmm(inner, up))
        return given + added.view(-1, *given.shape[1:])

    @staticmethod
    def macs(rank: int, inputs: int, outputs: int, length: int) -> int:
        """Return the multiply-accumulates of one row."""
        return length * rank * (inputs + outputs)

    def bytes(self, rank: int, inputs: int, outputs: int) -> int:
        """Return the bytes of the weights of a call: of all adapters, at a rank."""
        return 4 * self.down.shape[0] * rank * (inputs + outputs)


def _added_in_runs(
    down: Tensor, up: Tensor, which: Tensor, layout: Layout, taken: Tensor, given: Tensor
) -> Tensor:
    """Add to what a map gives, in place where it can be, by neighbouring rows of one adapter."""
    adapters, found = which.tolist(), given.flatten(1)
    place = {adapter: i for i, adapter in enumerate(dict.fromkeys(adapters))}
    if len(place) == 1:
        own = which[:1]
        inner = torch.mm(taken, down.index_select(0, own)[0].t())
        return found.addmm_(inner, up.index_select(0, own)[0]).view_as(given)
    own = torch.tensor(list(place))
    downs, ups = (one.index_select(0, own) for one in (down, up))
    first = 0
    for adapter, rows in groupby(zip(adapters, layout.lengths, strict=True), itemgetter(0)):
        tokens = slice(first, first + sum(length for _, length in rows))
        inner = torch.mm(taken[tokens], downs[place[adapter]].t())
        found[tokens].addmm_(inner, ups[place[adapter]])
        first = tokens.stop
    return found.view_as(given)


def ordered(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of the same product, the best leading ranks first.

    Each leading part is the nearest to the whole that there is of its rank.

    Args:
        down: Shape [rank, inputs].
        up: Shape [rank, outputs].

    Source: Eckart and Young 1936, The approximation of one matrix by another of lower rank.
    """
    left, inner = torch.linalg.qr(up.double().T)
    right, outer = torch.linalg.qr(down.double().T)
    u, values, v = torch.linalg.svd(inner @ outer.T)
    roots = values.sqrt()[:, None]
    found = roots * (right @ v.T).T, roots * (left @ u).T
    return found[0].to(down.dtype), found[1].to(up.dtype)
