"""Scores of queries with all documents of an index by a model that compares two texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from search.anncur import Duel, duel_for
from server.clients.inherit import inherited
from server.question import Question
from server.served import Served


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Known scores, and what they are worth.

    Attributes:
        model: That made them.
        known: Of some queries with all documents, float32, shape [queries, documents].
        duels: By `search.anncur.duels`, on other queries.
    """

    model: str
    known: Tensor
    duels: Sequence[Duel]

    def duel(self, scorer: Served, question: Question, k: int, calls: int) -> Duel | None:
        """Return what was measured of a search; None for another model or a limited budget.

        Scores by a part of the model are not those that are known.

        Args:
            scorer: The model asked.
            question: What it may spend.
            k: Documents wanted.
            calls: Pairs that it may compare.
        """
        budget = inherited(question, scorer).budget
        if scorer.name != self.model or budget.names_limit:
            return None
        return duel_for(self.duels, k, calls)
