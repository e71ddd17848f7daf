"""The static exit: a row's vector is a weighted sum of a vector per token, without any layer.

Sources: Arora, Liang and Ma 2017, A Simple but Tough-to-Beat Baseline for Sentence Embeddings, for
weighted sums of token vectors; sentence-transformers' ``StaticEmbedding`` for a table of an
encoder's own tokens.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.core import Cost, Plan, Step
from models.nn.quantized import bytes_of
from models.nn.ragged import Ragged

_KEY = "static"


class Static(nn.Module):
    """A vector and a weight per token.

    The sum is over whole vectors whatever part of them is asked for: so all sizes share one step,
    and it is cheap. What is asked for is cut from the sum.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(vocab_size, width))
        self.weights = nn.Parameter(torch.ones(vocab_size))
        nn.init.normal_(self.table, std=0.02)

    def forward(self, tokens: Ragged) -> Tensor:
        """Map packed token ids to sums, shape [rows, width]."""
        return tokens.layout.weighted_sum(tokens.values, self.table, self.weights)

    def macs(self, length: int) -> int:
        """Return the multiply-accumulates of one row: each token's vector times its weight."""
        return length * self.table.shape[1]

    def answer(self, name: str, dim: int, length: int) -> Step:
        """Return the step that gives a row's vector.

        Args:
            name: Of the input.
            dim: Leading dimensions of the vector, cut and then normalised.
            length: Tokens of the row.
        """
        total = Step((_KEY,), self, (name,), Cost(self.macs(length), bytes_of(self)))
        run, raw = partial(_unit_vectors, dim), partial(_cut, dim)
        return Step((_KEY, dim), run, (total,), raw=raw)


def is_static(plan: Plan) -> bool:
    """Return whether a plan is that of a static exit."""
    return plan.steps[0].key == (_KEY,)


def static_of(plan: Plan) -> Static | None:
    """Return the static exit that a plan is of; None if it is none."""
    run = plan.steps[0].run
    return run if is_static(plan) and isinstance(run, Static) else None


def _cut(dim: int, vectors: Tensor) -> Tensor:
    return vectors[:, :dim]


def _unit_vectors(dim: int, vectors: Tensor) -> Tensor:
    return F.normalize(_cut(dim, vectors), dim=1)
