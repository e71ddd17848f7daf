"""Two texts as one row of tokens, as encoders that compare them read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.nn.architecture import TransformerConfig
from models.nn.padded import PaddedLayout
from models.nn.ragged import Layout, Ragged
from models.nn.transformer import Embedding


class JoinedEmbedding(Embedding):
    """Embeds a first text, then a second one without its first token, or with another in its place.

    Of the type embedding the first row is folded into the positions when a checkpoint is read; the
    difference of the second row from it is kept.
    """

    def __init__(self, config: TransformerConfig, between: int | None) -> None:
        super().__init__(config)
        self.between = between
        self.second = nn.Parameter(torch.zeros(config.hidden))

    def join(self, first: Ragged, second: Ragged) -> Ragged:
        """Map the tokens of two texts to vectors of the joined rows, [tokens, hidden]."""
        if isinstance(first.layout, PaddedLayout) and isinstance(second.layout, PaddedLayout):
            return self._embedded(*_joined_padded(first, second, self.between))
        ids, of_second, lengths = [], [], []
        parts = (torch.split(x.values, list(x.layout.lengths)) for x in (first, second))
        for a, b in zip(*parts, strict=True):
            between = [] if self.between is None else [self.between]
            rest = torch.cat((b.new_tensor(between), b[1:]))
            ids.append(torch.cat((a, rest)))
            of_second.append(torch.cat((a.new_zeros(len(a)), rest.new_ones(len(rest)))))
            lengths.append(len(a) + len(rest))
        tokens = torch.cat(ids)
        return self._embedded(tokens, torch.cat(of_second), Layout(lengths, tokens.device))

    def _embedded(self, tokens: Tensor, of_second: Tensor, layout: Layout) -> Ragged:
        x = self.token(tokens) + of_second[:, None] * self.second
        if self.position is not None:
            x = x + self.position(layout.positions)
        joined: Tensor = self.norm(x)
        return Ragged(joined, layout)

    def joined_length(self, first: int, second: int) -> int:
        """Return the tokens of a joined row."""
        return first + second - (self.between is None)


def _joined_padded(
    first: Ragged, second: Ragged, between: int | None
) -> tuple[Tensor, Tensor, PaddedLayout]:
    """Join rows that are padded at their ends: each second text moves up to the end of its first.

    Returns:
        Ids and whether they are of the second text, both shape [rows * longest], and the layout.
    """
    one, two = first.layout, second.layout
    a, b = one.pad(first.values), two.pad(second.values)[:, 1:]
    if between is not None:
        b = torch.cat((b.new_full((b.shape[0], 1), between), b), dim=1)
    counts = one.counts[:, None]
    place = torch.arange(a.shape[1] + b.shape[1], device=a.device)[None, :]
    is_second = place >= counts
    # Cells after the end read some token; nothing attends to them.
    at = torch.where(is_second, a.shape[1] + place - counts, place)
    ids = torch.cat((a, b), dim=1).gather(1, at.clamp(max=a.shape[1] + b.shape[1] - 1))
    present = place < counts + two.counts[:, None] - (between is None)
    return ids.flatten(), is_second.long().flatten(), PaddedLayout(present)
