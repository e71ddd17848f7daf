"""The documents of one list, scored rung by rung: what runs, goes on from where, and costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf

from torch import Tensor

from models.inputs import num_tokens
from models.nn.ragged import Value
from search.lengths import IntArray
from search.lexical import lexical_scores
from search.quality.table import FloatArray
from server.admitted import Admitted
from server.engine.item import ItemResult, PreparedPlan, QueueItem
from server.layerless import runs_here, vectors_here
from server.rungs import Rungs, seconds
from server.served import Served
from server.service import Service

QUERY = -1
"""Number of the query among documents."""
_MAX_KEPT_TOKENS = 65_536  # of a list whose documents' states are kept, 1.5 kB each for MiniLM


@dataclass(eq=False)
class Scoring:
    """A list and what has been computed of it.

    Attributes:
        service: Prepares plans.
        served: The model.
        admitted: The request's room and items; of a model that compares two texts an item is a
            pair, else the query's comes first.
        ladder: How documents can be scored.
        is_pairs: Whether an item is a pair.
        query: The query's own rung, with which documents of every rung are compared; None for the
            best of the ladder in one space, else for that of the documents.
        in_stages: Whether a rung without layers is run here, past the engine.
        macs: Multiply-accumulates of what ran.
        results: Of each document and the query, by number, the last.
    """

    service: Service
    served: Served
    admitted: Admitted
    ladder: Rungs
    is_pairs: bool
    query: Rungs | None = None
    in_stages: bool = False
    macs: int = 0
    results: dict[int, ItemResult] = field(default_factory=dict)
    _reached: dict[int, int] = field(default_factory=dict)
    _kept: dict[int, Mapping[bytes, Value]] = field(default_factory=dict)
    _vectors: dict[int, Tensor] = field(default_factory=dict)  # of the query, by rung
    _plans: dict[tuple[int, int], PreparedPlan] = field(default_factory=dict)
    _macs: dict[tuple[int, int], IntArray] = field(default_factory=dict)
    _seconds: dict[int, FloatArray] = field(default_factory=dict)

    @property
    def documents(self) -> range:
        """Their numbers."""
        return range(len(self.admitted.items) - (not self.is_pairs))

    @cached_property
    def lengths(self) -> Sequence[Mapping[str, int]]:
        """Of each item, by input."""
        return [{name: one.size for name, one in item.items()} for item in self.admitted.items]

    def place(self, document: int) -> int:
        """Return the position of a document, or of the query, among the items."""
        return document + (not self.is_pairs)

    def before(self, document: int) -> int:
        """Return the rung whose state a document goes on from; -1 for none."""
        return self._reached[document] if document in self._kept else -1

    def query_rung(self, rung: int) -> int:
        """Return the rung of the query with which documents of a rung are compared."""
        return len(self.ladder.rungs) - 1 if self.ladder.is_one_space else rung

    def needs_query(self, rung: int) -> bool:
        """Return whether the query has to run before documents of a rung can be compared."""
        if self.is_pairs or self.is_here(rung):
            return False
        return self.query_rung(rung) not in self._vectors

    def is_here(self, rung: int) -> bool:
        """Return whether a rung has no layers and is run here."""
        return self.in_stages and not self.is_pairs and runs_here(self._prepared(rung, -1).plan)

    async def score(
        self, rung: int, documents: Iterable[int], until: float = inf, longest_s: float = inf
    ) -> dict[int, float]:
        """Score documents by a rung, as far as there is time.

        Args:
            rung: Of the ladder.
            documents: Numbers.
            until: On the engine's clock; infinity for the request's own deadline.
            longest_s: As in `server.engine.item.QueueItem`.

        Returns:
            By document; those that were not done in time are missing.

        Raises:
            DeadlineError: Without a time of its own, if the request's passed.
            InferenceError: If the model failed.
        """
        if self.is_here(rung):
            return await self._score_here(rung, list(documents), until)
        runs = [(one, rung) for one in documents]
        if self.needs_query(rung):
            runs.insert(0, (QUERY, self.query_rung(rung)))
        items = [self._item(one, at, until, longest_s) for one, at in runs]
        results = await self.admitted.run_items(items, until)
        scores: dict[int, float] = {}
        for (one, at), item, result in zip(runs, items, results, strict=True):
            if result is None:
                continue
            self._take(one, at, item.prepared, result)
            if one == QUERY:
                self._vectors[at] = result.outputs[self.ladder.task]
            elif not self.needs_query(rung):
                scores[one] = self._score(rung, result)
        return scores

    async def _score_here(
        self, rung: int, documents: Sequence[int], until: float
    ) -> dict[int, float]:
        """Score documents by an exit without layers, the query's vector being its own as well."""
        plan = self._prepared(rung, -1).plan
        items = [self.admitted.items[self.place(one)] for one in (QUERY, *documents)]
        running = asyncio.ensure_future(asyncio.to_thread(vectors_here, plan, items))
        left_s = None if until == inf else max(0.0, until - self.service.clock())
        done, _ = await asyncio.wait([running], timeout=left_s)
        if not done:
            return {}
        vectors = running.result()
        for one in (QUERY, *documents):
            self.macs += self._macs_of(one, rung, -1)
        self._reached |= dict.fromkeys(documents, rung)
        scores: list[float] = (vectors[1:] @ vectors[0]).tolist()
        return dict(zip(documents, scores, strict=True))

    async def lexical(self) -> FloatArray:
        """Return how much of the query's words each document has, see `search.lexical`."""
        items = self.admitted.items
        if self.is_pairs:
            assert self.served.pair is not None, "or it would not compare"
            of_query, of_document = self.served.pair
        else:
            of_query = of_document = self.served.inputs.name_for("text")
        query = items[0][of_query].value.numpy()
        documents = [items[self.place(i)][of_document].value.numpy() for i in self.documents]
        return await asyncio.to_thread(lexical_scores, query, documents)

    def cost(self, rung: int, before: int) -> IntArray:
        """Return the multiply-accumulates of each item by a rung, going on from another."""
        key = (rung, before)
        if key not in self._macs:
            self._macs[key] = self.ladder.macs(rung, before, self._basis)
        return self._macs[key]

    def seconds(self, rung: int) -> FloatArray:
        """Predict the time of each item by a rung, from its start, in a batch."""
        if rung not in self._seconds:
            self._seconds[rung] = seconds(self._prepared(rung, -1), self.lengths)
        return self._seconds[rung]

    def _item(self, document: int, rung: int, until: float, longest_s: float) -> QueueItem:
        before = self.before(document)
        known = self._kept.get(document, {})
        prepared = self._prepared(rung, before)
        if document == QUERY and self.query is not None:
            subnet = self.query.rungs[0].subnet
            prepared = self.service.variants.prepare(self.served, subnet, [self.ladder.task])
        place = self.place(document)
        return self.admitted.queued(
            prepared,
            self.admitted.items[place],
            known,
            2.0 * self._macs_of(document, rung, before),
            min(until, self.admitted.deadline),
            longest_s,
        )

    def _take(self, one: int, rung: int, prepared: PreparedPlan, result: ItemResult) -> None:
        self.macs += self._macs_of(one, rung, self.before(one))
        self.results[one], self._reached[one] = result, rung
        kept = {**self._kept.pop(one, {}), **result.kept}
        if kept := {key: value for key, value in kept.items() if key in prepared.keep}:
            self._kept[one] = kept

    def _macs_of(self, one: int, rung: int, before: int) -> int:
        if one == QUERY and self.query is not None:
            return int(self.query.macs(0, -1, self._basis[:1])[0])
        return int(self.cost(rung, before)[self.place(one)])

    @cached_property
    def _basis(self) -> IntArray:
        return self.ladder.basis([self.served.inputs.shapes(one) for one in self.admitted.items])

    def _score(self, rung: int, result: ItemResult) -> float:
        answer = result.outputs[self.ladder.task]
        if self.is_pairs:
            return float(answer)
        return float(answer @ self._vectors[self.query_rung(rung)])

    def _prepared(self, rung: int, before: int) -> PreparedPlan:
        if (rung, before) not in self._plans:
            subnet, task = self.ladder.rungs[rung].subnet, self.ladder.task
            plan = self.service.variants.prepare(self.served, subnet, [task])
            self._plans[rung, before] = self.ladder.going_on(plan, rung, before, self._may_keep)
        return self._plans[rung, before]

    @cached_property
    def _may_keep(self) -> bool:
        return sum(map(num_tokens, self.admitted.items)) <= _MAX_KEPT_TOKENS
