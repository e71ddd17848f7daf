"""Two texts as one row of tokens, as encoders that compare them read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.nn.architecture import TransformerConfig
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
        ids, of_second, lengths = [], [], []
        parts = (torch.split(x.values, list(x.layout.lengths)) for x in (first, second))
        for a, b in zip(*parts, strict=True):
            between = [] if self.between is None else [self.between]
            rest = torch.cat((b.new_tensor(between), b[1:]))
            ids.append(torch.cat((a, rest)))
            of_second.append(torch.cat((a.new_zeros(len(a)), rest.new_ones(len(rest)))))
            lengths.append(len(a) + len(rest))
        tokens = torch.cat(ids)
        layout = Layout(lengths, tokens.device)
        x = self.token(tokens) + torch.cat(of_second)[:, None] * self.second
        if self.position is not None:
            x = x + self.position(layout.positions)
        joined: Tensor = self.norm(x)
        return Ragged(joined, layout)

    def joined_length(self, first: int, second: int) -> int:
        """Return the tokens of a joined row."""
        return first + second - (self.between is None)
