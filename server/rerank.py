"""Ranking texts by their vectors' cosine with a query's, or by what a model says of each pair.

Either in one pass or in a cascade.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from models.core import Shapes, plan_cost
from models.inputs import num_tokens
from models.space import Subnet
from server.choose import Choice, Question
from server.engine.item import ItemResult, PreparedPlan
from server.errors import InvalidRequestError
from server.inputs.sources import Source
from server.observe.metrics import Stage
from server.served import Served
from server.service import Service

Scale: TypeAlias = Literal["cosine", "logit"]


@dataclass(frozen=True, slots=True)
class Cascade:
    """Score all documents at a shallow exit, then only the best of them at the chosen one.

    Attributes:
        depth: The shallow exit layer.
        keep: Documents that go deeper.
    """

    depth: int
    keep: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Documents in order, and what it took.

    Attributes:
        choice: The subnet chosen, and how.
        order: Indices of the documents, best first.
        scores: Of each document, from the deepest exit it reached.
        scale: ``cosine`` with the query, -1..1; or ``logit``, any number.
        deepened: Indices of the documents that went deeper; empty without a cascade.
        macs: Multiply-accumulates of the whole request.
        num_tokens: Read, the query included.
        seconds: Per stage.
    """

    choice: Choice
    order: list[int]
    scores: list[float]
    scale: Scale
    deepened: list[int]
    macs: int
    num_tokens: int
    seconds: Mapping[Stage, float]


async def rerank(
    service: Service,
    served: Served,
    question: Question,
    query: Source,
    documents: Sequence[Source],
    cascade: Cascade | None = None,
) -> Ranking:
    """Rank documents by cosine, or by the scores of a model that compares two texts.

    With a cascade the query and the best documents go on from the state that the shallow exit
    read, so that no layer runs twice. Those that went deeper stay ahead of the others: scores of
    two exits are not one scale. Where load makes the subnet no deeper than the cascade's first
    pass, that is all there is.

    Raises:
        RheostatError: As `Service.infer`; InvalidRequestError for a cascade that cannot be.
    """
    is_pairs = _compares(served)
    first_document = 0 if is_pairs else 1  # the query is row 0
    num_more = min(cascade.keep, len(documents)) + first_document if cascade else 0
    items = _items(served, query, documents, is_pairs)
    scored = _logits if is_pairs else _cosines
    async with service.admit(served, question, items, num_more) as admitted:
        selection = admitted.selection
        task = _task(served, selection.scores, is_pairs)
        first, rest = _stages(service, served, admitted.choice, cascade, task)
        results = await admitted.run(first.prepared)
        scores = scored(results, task)
        shapes = [served.inputs.shapes(item) for item in admitted.items]
        macs = first.macs(served, shapes)
        deepened: list[int] = []
        if cascade is not None and rest is not None:
            deepened = _best_first(scores)[: cascade.keep]
            again = [*range(first_document), *(i + first_document for i in deepened)]
            deep = await admitted.run(rest.prepared, {i: results[i].kept for i in again})
            macs += rest.macs(served, [shapes[i] for i in again])
            for i, score in zip(deepened, scored(deep, task), strict=True):
                scores[i] = score
        if cascade is None:
            service.audit.note(admitted, served, results, is_list=True)
    is_deep = set(deepened)
    order = sorted(range(len(documents)), key=lambda i: (i not in is_deep, -scores[i]))
    read = sum(map(num_tokens, admitted.items))
    scale: Scale = "logit" if is_pairs else "cosine"
    return Ranking(admitted.choice, order, scores, scale, deepened, macs, read, admitted.seconds)


def _compares(served: Served) -> bool:
    """Return whether a model's scores are of two texts."""
    return served.pair is not None and served.gives(("score",))


def _items(
    served: Served, query: Source, documents: Sequence[Source], is_pairs: bool
) -> list[dict[str, Source]]:
    if is_pairs and served.pair is not None:
        first, second = served.pair
        return [{first: query, second: document} for document in documents]
    return served.named("text", [query, *documents])


def _task(served: Served, tasks: Iterable[str], is_pairs: bool) -> str:
    """Return the first task whose answers rank."""
    kind = "score" if is_pairs else "embedding"
    return next(task for task in tasks if served.elastic.tasks[task].kind == kind)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A plan, and how to count what it costs for items of any shapes."""

    prepared: PreparedPlan
    subnet: Subnet

    def macs(self, served: Served, shapes: Sequence[Shapes]) -> int:
        total, tasks = 0, list(self.prepared.plan.answers)
        for shape, count in Counter(tuple(one.items()) for one in shapes).items():
            plan = served.elastic.plan(self.subnet, dict(shape), tasks)
            total += count * plan_cost(plan.rest(self.prepared.known)).macs
        return total


def _stages(
    service: Service, served: Served, choice: Choice, cascade: Cascade | None, task: str
) -> tuple[_Stage, _Stage | None]:
    subnet = choice.selection.subnet
    whole = service.variants.prepare(served, subnet, [task])
    if cascade is None:
        return _Stage(whole, subnet), None
    axis = served.exits
    if axis is None:
        raise InvalidRequestError("cascade: this model has no exits to leave at", "cascade")
    chosen = subnet[axis.name]
    allowed = [
        value
        for value in axis.values[: axis.index(chosen)]
        if served.elastic.space.valid(subnet | {axis.name: value})
    ]
    if cascade.depth not in allowed:
        if choice.is_slimmed and cascade.depth in axis.values:
            return _Stage(whole, subnet), None  # load has left nothing to go on to
        raise InvalidRequestError(
            f"cascade.depth={cascade.depth} must be an exit before the chosen one "
            f"({axis.name}={chosen}); one of {allowed}",
            "cascade.depth",
        )
    shallow = subnet | {axis.name: cascade.depth}
    first = service.variants.prepare(served, shallow, [task])
    # What the shallow exit reads, the deeper layers go on from.
    shared = frozenset(step.identity for step in whole.plan.last_common(first.plan))
    return (
        _Stage(replace(first, keep=shared), shallow),
        _Stage(replace(whole, known=shared), subnet),
    )


def _cosines(results: Sequence[ItemResult], task: str) -> list[float]:
    """Return each later row's cosine with the first; vectors are of length 1."""
    vectors = torch.stack([result.outputs[task] for result in results])
    return (vectors[1:] @ vectors[0]).tolist()


def _logits(results: Sequence[ItemResult], task: str) -> list[float]:
    return [float(result.outputs[task]) for result in results]


def _best_first(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])
