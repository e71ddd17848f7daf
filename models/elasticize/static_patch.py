"""Vectors of some tokens in place of those that a static exit has, fitted to a few texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.elasticize.sparse_rows import Floats
from models.elasticize.static_table import Bags, corrected, length_of
from models.nn.static import Static


@dataclass(frozen=True, eq=False)
class StaticPatch:
    """What replaces a part of a static exit.

    Attributes:
        tokens: Ids, ascending, int64, shape [tokens].
        table: Of each its vector, weighted, float16, shape [tokens, width].
        factor: Of the exit's own weighted vectors, those of all other tokens.
    """

    tokens: Tensor
    table: Tensor
    factor: float

    @property
    def num_bytes(self) -> int:
        """Held."""
        return self.tokens.nbytes + self.table.nbytes

    def vectors(self, rows: Sequence[Tensor], static: Static) -> Tensor:
        """Return the unit vectors of texts, shape [rows, width].

        Args:
            rows: Token ids of each, int64, shape [length].
            static: The exit.
        """
        return torch.stack([F.normalize(self._sum(row, static), dim=0) for row in rows])

    def _sum(self, ids: Tensor, static: Static) -> Tensor:
        place = torch.searchsorted(self.tokens, ids).clamp_max(len(self.tokens) - 1)
        is_here = self.tokens[place] == ids
        found = self.factor * _weighted(static, ids, self.table.shape[1])
        found[is_here] = self.table[place[is_here]].float()
        return found.sum(dim=0)


def fit_patch(
    rows: Sequence[Tensor],
    vectors: Floats,
    static: Static,
    report: Callable[[int, int], bool] = lambda done, of: True,
) -> StaticPatch:
    """Fit the tokens that texts have, near to what the static exit says of them.

    Args:
        rows: Token ids of the texts.
        vectors: The whole model's unit vectors of them, shape [texts, width].
        static: The exit.
        report: As in `models.elasticize.static_table.corrected`.
    """
    tokens, places = np.unique(torch.cat(list(rows)).numpy(), return_inverse=True)
    ends = np.cumsum([len(row) for row in rows])[:-1]
    compact = [torch.from_numpy(part) for part in np.split(places.astype(np.int64), ends)]
    bags = Bags(compact, len(tokens))
    weights = bags.weights()
    scaled = bags.scaled(weights)
    ids = torch.from_numpy(tokens)
    weighted = _weighted(static, ids, vectors.shape[1]).numpy()
    own: Floats = (weighted / weights[:, None]).astype(np.float32)
    factor = length_of(scaled, own, vectors)
    prior: Floats = (factor * own).astype(np.float32)
    table = corrected(scaled, vectors, prior, report=report) * weights[:, None]
    scale = float(np.median(np.linalg.norm(table, axis=1)))  # neither leaves float16's range
    return StaticPatch(ids, torch.from_numpy(table / scale).half(), factor / scale)


def _weighted(static: Static, ids: Tensor, width: int) -> Tensor:
    with torch.no_grad():
        found = static.table[ids, :width] * static.weights[ids, None]
    return found.float().cpu()
