"""What a client wants of a model, in the server's own terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from models.space import Value
from models.variants import Choices
from search.budget import Budget
from search.quality.sides import Side
from server.clients.caller import ANYONE, Caller


@dataclass(frozen=True, slots=True)
class Question:
    """What a client wants to know and spend.

    Attributes:
        tasks: None for all of the model's.
        preferences: Weight per task on any scale; None for equal weights.
        budget: For each input.
        fixed: Values that the client has chosen itself, by axis.
        caller: Who asks.
        priority: Class that the request steps back to; it cannot step ahead of its caller's. None
            for the caller's.
        timeout_s: From its arrival; later an answer is of no use. Unlike a latency budget it
            chooses no subnet. None for no end.
        raw: Whether vectors keep the length that they had before they became unit vectors.
        resident: Choices on load axes whose weights are built; only these may run. None for all.
        side: Of a search that the texts are, whose other side is of the whole model; None for
            either.
        adapter: Name of one of the model's; empty for none, None for the caller's.
    """

    tasks: Sequence[str] | None
    preferences: Mapping[str, float] | None
    budget: Budget
    fixed: Mapping[str, Value] = field(default_factory=dict)
    caller: Caller = ANYONE
    priority: int | None = None
    timeout_s: float | None = None
    raw: bool = False
    resident: frozenset[Choices] | None = None
    side: Side | None = None
    adapter: str | None = None

    def of_the_best(self) -> Question:
        """Return the same question of the best subnet, whatever it costs and however long it takes.

        The weights that it may hold stay limited.
        """
        budget = Budget(bytes=self.budget.bytes, strict=True)
        return replace(self, budget=budget, timeout_s=None)
