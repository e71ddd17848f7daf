"""From all tokens of a row to some: means of neighbours, and what learned selectors make of them.

Every row gets the same number, however long it is, so that what follows costs the same for all. The
first token stays by itself, since some models read their answer from it. The others are cut into
runs of nearly equal length, each of which is averaged; where a row has fewer tokens than are
wanted, neighbours share them. A selector's gate, 0 at first, moves its token from that mean to an
average by attention over the whole row.

Source: De Min et al. 2024, MULTI-LANE, arXiv 2407.17228, for selectors that summarise tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.nn.ragged import Layout, Ragged


class Selectors(nn.Module):
    """Selectors, of which leading ones can be used.

    Attributes:
        queries: Shape [selectors, hidden].
        gates: Shape [selectors]; 0: the mean of neighbours.
    """

    def __init__(self, selectors: int, hidden: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(selectors, hidden))
        nn.init.normal_(self.queries, std=0.02)
        self.gates = nn.Parameter(torch.zeros(selectors))

    def forward(self, count: int, x: Ragged) -> Ragged:
        """Map values of shape [tokens, hidden] to ``count`` tokens a row.

        Args:
            count: 2..selectors.
            x: Packed rows.
        """
        layout = x.layout
        rows = layout.pad(x.values)  # [rows, longest, hidden]
        queries = self.queries[:count].expand(len(rows), -1, -1)
        scores = torch.bmm(queries, rows.transpose(1, 2)) * rows.shape[2] ** -0.5
        present = layout.present[:, None]
        attended = scores.masked_fill(~present, -torch.inf).softmax(2)
        means = mean_weights(layout, count).to(rows.dtype)
        weights = means + self.gates[:count, None] * (attended - means)
        found = torch.bmm(weights, rows)
        return Ragged(found.flatten(0, 1), Layout([count] * len(rows), layout.device))

    def macs(self, count: int, length: int) -> int:
        """Return the multiply-accumulates of one row."""
        return 2 * count * length * self.queries.shape[1]

    def bytes(self, count: int) -> int:
        """Return the bytes of the weights of a call."""
        return 4 * count * (self.queries.shape[1] + 1)


def mean_weights(layout: Layout, count: int) -> Tensor:
    """Return how much of each token goes into each of some means.

    Args:
        layout: Of the tokens.
        count: Means of a row, 2 or more; the first is the first token.

    Returns:
        Shape [rows, count, longest]; each mean's weights sum to 1.
    """
    place = torch.arange(layout.longest, device=layout.device)
    others = (layout.counts - 1)[:, None]
    run = torch.arange(count - 1, device=layout.device)
    many = others.clamp_min(1)
    first = run * many // (count - 1) + (others > 0)
    last = -(-(run + 1) * many // (count - 1)) + (others > 0)
    inside = (place >= first[..., None]) & (place < last[..., None])
    rest = inside / inside.sum(2, keepdim=True)
    lead = (place == 0).expand(len(rest), 1, -1).to(rest.dtype)
    return torch.cat((lead, rest), dim=1)
