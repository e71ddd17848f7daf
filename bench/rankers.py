"""Clients that ask a server for rankings of SciFact's claims, and what they get."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.peers.process import HOST, Running, ServerError
from models.train.texts import Retrieval
from search.quality.table import FloatArray

CANDIDATES = 100
PLACES = 10
INDEX = "candidates"

Body = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Policy:
    """A way to ask for a ranking.

    Attributes:
        name: In the table.
        fields: Of the request.
        first: Candidates that are sent; the others follow as they are.
        is_by_id: Whether the server has the documents.
    """

    name: str
    fields: Body
    first: int = CANDIDATES
    is_by_id: bool = False


@dataclass(frozen=True)
class Cell:
    """What became of some requests.

    Attributes:
        scores: Of each claim, the mean nDCG@10 of its answers; NaN where it was not asked.
        times: From the first byte sent to the last byte read, seconds.
        refused: Answers that are no ranking, by status.
        seen: Mean overlap that was expected; NaN where none was told.
        flops: Of an answer, the mean.
    """

    scores: FloatArray
    times: FloatArray
    refused: Mapping[int, int]
    seen: float
    flops: float = math.nan

    @classmethod
    def of(cls, figures: Body) -> Cell:
        """Return the cell of what `figures` gave."""
        scores = np.array([math.nan if one is None else one for one in figures["scores"]])
        times = np.array(figures["times_ms"]) / 1000
        refused = {int(status): count for status, count in figures["refused"].items()}
        seen, flops = (_or_nan(figures[name]) for name in ("seen", "flops"))
        return cls(scores, times, refused, seen, flops)

    @property
    def figures(self) -> Body:
        """What is written of it."""
        return {
            "scores": [None if math.isnan(one) else one for one in self.scores.tolist()],
            "times_ms": [round(1000 * one, 2) for one in self.times.tolist()],
            "refused": dict(self.refused),
            "seen": None if math.isnan(self.seen) else self.seen,
            "flops": None if math.isnan(self.flops) else self.flops,
        }

    @property
    def told(self) -> str:
        """One line of it."""
        ndcg, stderr, count = self.ndcg
        times = self.times if len(self.times) else np.array([math.nan])
        return (
            f"nDCG@10 {ndcg:.4f} ± {stderr:.4f} of {count} claims, {len(self.times)} answers, "
            f"median {1000 * np.median(times):.0f} ms, longest {1000 * times.max():.0f} ms, "
            f"refused {sum(self.refused.values())}"
        )

    @property
    def ndcg(self) -> tuple[float, float, int]:
        """The mean, its standard error and the number of claims."""
        known = self.scores[~np.isnan(self.scores)]
        if len(known) < 2:
            return math.nan, math.nan, len(known)
        return float(known.mean()), float(known.std(ddof=1) / math.sqrt(len(known))), len(known)


@dataclass(frozen=True)
class Lists:
    """Claims with their candidates.

    Attributes:
        data: SciFact.
        candidates: Of each claim, document numbers as BM25 has them, best first.
    """

    data: Retrieval
    candidates: Sequence[Sequence[int]]

    def sent(self, claim: int, policy: Policy) -> list[int]:
        """Return the documents of a request, in an order that says nothing."""
        return sorted(self.candidates[claim][: policy.first])

    def body(self, claim: int, policy: Policy, model: str) -> bytes:
        """Return a request that brings its documents."""
        documents = [self.data.documents[i] for i in self.sent(claim, policy)]
        return _json(model, self.data.queries[claim], policy, documents=documents)

    def body_of_ids(self, claim: int, policy: Policy, index: str) -> bytes:
        """Return a request that names documents of an index."""
        ids = [str(i) for i in self.sent(claim, policy)]
        return json.dumps(
            {"query": self.data.queries[claim], "index": index, "ids": ids, **policy.fields}
        ).encode()

    def score(self, claim: int, policy: Policy, order: Sequence[int]) -> float:
        """Return nDCG@10 of an answer."""
        sent = self.sent(claim, policy)
        ranked = [sent[i] for i in order] + list(self.candidates[claim][policy.first :])
        return ndcg(ranked, self.data.relevant[claim])


def ndcg(ranked: Sequence[int], right: Collection[int]) -> float:
    """Return nDCG@10 of documents in order; right ones that are not among them count as 0."""
    discounts = 1 / np.log2(np.arange(2, PLACES + 2))
    found = [discount for one, discount in zip(ranked, discounts, strict=False) if one in right]
    return float(sum(found) / discounts[: len(right)].sum())


def _json(model: str, query: str, policy: Policy, **fields: Any) -> bytes:
    body = {"model": model, "query": query, "truncate": "right", **fields, **policy.fields}
    return json.dumps(body).encode()


class Asking:
    """Clients of one server."""

    def __init__(self, server: Running, lists: Lists, model: str) -> None:
        self._server, self._lists, self._model = server, lists, model
        self._has_index = False

    def keep(self) -> None:
        """Have the server keep the candidates of all claims, unless it does."""
        if self._has_index:
            return
        self._has_index = True
        numbers = sorted({i for own in self._lists.candidates for i in own})
        documents = [{"id": str(i), "text": self._lists.data.documents[i]} for i in numbers]
        body = json.dumps({"name": INDEX, "model": self._model, "documents": documents}).encode()
        connection = http.client.HTTPConnection(HOST, self._server.port, timeout=3600)
        status, answer = _asked(connection, body, "/v1/indexes")
        connection.close()
        if status != 201:
            raise ServerError(f"the index was not made: {status} {answer[:300]!r}")

    def cell(
        self, policy: Policy, clients: int, claims: Sequence[int], longest_s: float = math.inf
    ) -> Cell:
        """Ask for rankings from some clients at once.

        Args:
            policy: Of all requests.
            clients: Each asks one claim after the other.
            claims: To be asked, in order.
            longest_s: After which nobody asks any more.
        """
        lists, model = self._lists, self._model
        bodies = {
            one: lists.body_of_ids(one, policy, INDEX)
            if policy.is_by_id
            else lists.body(one, policy, model)
            for one in set(claims)
        }
        left: Iterator[int] = iter(claims)
        lock = threading.Lock()
        until = time.perf_counter() + longest_s
        scores: dict[int, list[float]] = {}
        times: list[float] = []
        seen: list[float] = []
        flops: list[int] = []
        refused: Counter[int] = Counter()

        def client() -> None:
            connection = http.client.HTTPConnection(HOST, self._server.port, timeout=120)
            while True:
                with lock:
                    claim = next(left, None) if time.perf_counter() < until else None
                if claim is None:
                    break
                started = time.perf_counter()
                status, answer = _asked(connection, bodies[claim])
                taken_s = time.perf_counter() - started
                if status != 200:
                    refused[status] += 1
                    continue
                found = json.loads(answer)
                order = [one["index"] for one in found["results"]]
                times.append(taken_s)
                scores.setdefault(claim, []).append(self._lists.score(claim, policy, order))
                flops.append(found["receipt"]["total_flops"])
                if stages := found["receipt"]["stages"]:
                    seen.append(stages["expected_overlap"])
            connection.close()

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        each = np.full(len(self._lists.candidates), np.nan)
        for claim, own in scores.items():
            each[claim] = np.mean(own)
        return Cell(each, np.array(times), refused, _mean(seen), _mean(flops))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _asked(
    connection: http.client.HTTPConnection, body: bytes, path: str = "/v1/rerank"
) -> tuple[int, bytes]:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()
