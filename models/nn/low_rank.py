"""Low-rank additions to linear maps, another one for each row of a batch.

What an adapter adds to a map is a product of two thin matrices. Those of all adapters lie in one
tensor each, and whatever is not low-rank is computed for all rows together. Leading slices of the
rank are adapters of less rank. Rows with different adapters are products of batches: on a device,
in a graph and where gradients are taken of all rows, padded. Elsewhere of neighbouring rows of one
length: the products are thin, so padding costs several times what multiplying does.

Source: Hu et al. 2021, LoRA, arXiv 2106.09685; Sheng et al. 2023, S-LoRA, arXiv 2311.03285, for
batches of several adapters.
"""

from __future__ import annotations

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
            return _added_in_place(down, up, which, layout, taken, given)
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


def _added_in_place(
    down: Tensor, up: Tensor, which: Tensor, layout: Layout, taken: Tensor, given: Tensor
) -> Tensor:
    """Add to what a map gives, by runs of rows of one length: these lie as padded ones would."""
    found = given.flatten(1)
    if len(set(which.tolist())) == 1:
        own, other = (one.index_select(0, which[:1])[0] for one in (down, up))
        return found.addmm_(torch.mm(taken, own.t()), other).view_as(given)
    down, up = (one.index_select(0, which) for one in (down, up))
    first = 0
    for tokens, run in layout.blocks:
        rows = slice(first, first + len(run.lengths))
        inner = torch.bmm(run.pad(taken[tokens]), down[rows].transpose(1, 2))
        run.pad(found[tokens]).baddbmm_(inner, up[rows])
        first = rows.stop
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
