"""Ranking texts by their vectors' cosine with a query's, or by what a model says of each pair.

Either in one pass or in a cascade.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from models.core import Shapes, plan_cost
from models.inputs import num_tokens
from models.nn.ragged import Value
from models.space import Subnet
from models.variants import choices_of, load_axes
from models.vectors import space_choices
from search.find import Selection
from server.admitted import Admitted
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
        query: What was chosen for the query alone; None if it has the documents' subnet.
    """

    choice: Choice
    order: list[int]
    scores: list[float]
    scale: Scale
    deepened: list[int]
    macs: int
    num_tokens: int
    seconds: Mapping[Stage, float]
    query: Selection | None = None


async def rerank(
    service: Service,
    served: Served,
    question: Question,
    query: Source,
    documents: Sequence[Source],
    cascade: Cascade | None = None,
    query_question: Question | None = None,
) -> Ranking:
    """Rank documents by cosine, or by the scores of a model that compares two texts.

    With a question of its own the query gets a subnet of its own, in the documents' space.

    With a cascade the query and the best documents go on from the state that the shallow exit
    read, so that no layer runs twice. Those that went deeper stay ahead of the others: scores of
    two exits are not one scale. Where load makes the subnet no deeper than the cascade's first
    pass, that is all there is.

    Raises:
        RheostatError: As `Service.infer`; InvalidRequestError for a cascade that cannot be.
    """
    is_pairs = _compares(served)
    first_document = 0 if is_pairs else 1  # the query is row 0
    if query_question is not None:
        _check_sides(is_pairs, cascade)
    num_more = min(cascade.keep, len(documents)) + first_document if cascade else 0
    items = _items(served, query, documents, is_pairs)
    scored = _logits if is_pairs else _cosines
    async with service.admit(served, question, items, num_more) as admitted:
        selection = admitted.selection
        task = _task(served, selection.scores, is_pairs)
        first, deeper = _stages(service, served, admitted.choice, cascade, task)
        shapes = [served.inputs.shapes(item) for item in admitted.items]
        of_query = None
        if query_question is not None:
            of_query = _of_query(service, served, query_question, selection, shapes[0])
        alone = None if of_query is None else _stage(service, served, of_query.subnet, task)
        results = await _first_pass(admitted, first, alone)
        macs = (alone or first).macs(served, shapes[:1]) + first.macs(served, shapes[1:])
        scores = scored(results, task)
        deepened: list[int] = []
        if cascade is not None and deeper is not None:
            deepened = _best_first(scores)[: cascade.keep]
            again = [*range(first_document), *(i + first_document for i in deepened)]
            deep = await admitted.run(deeper.prepared, {i: results[i].kept for i in again})
            macs += deeper.macs(served, [shapes[i] for i in again])
            for i, score in zip(deepened, scored(deep, task), strict=True):
                scores[i] = score
        if cascade is None and of_query is None:
            service.audit.note(admitted, served, results, is_list=True)
    is_deep = set(deepened)
    order = sorted(range(len(documents)), key=lambda i: (i not in is_deep, -scores[i]))
    read = sum(map(num_tokens, admitted.items))
    scale: Scale = "logit" if is_pairs else "cosine"
    return Ranking(
        admitted.choice, order, scores, scale, deepened, macs, read, admitted.seconds, of_query
    )


def _check_sides(is_pairs: bool, cascade: Cascade | None) -> None:
    """Refuse a budget of the query where it has no plan of its own."""
    if is_pairs or cascade is not None:
        what = "with a cascade" if cascade is not None else "of a model that reads pairs"
        raise InvalidRequestError(f"query_budget cannot be used {what}", "query_budget")


async def _first_pass(
    admitted: Admitted, documents: _Stage, query: _Stage | None
) -> list[ItemResult]:
    """Run all items on one subnet, or the first, the query, on another, together."""
    if query is None:
        return await admitted.run(documents.prepared)
    rest: dict[int, Mapping[bytes, Value]] = {i: {} for i in range(1, len(admitted.items))}
    both = (admitted.run(query.prepared, {0: {}}), admitted.run(documents.prepared, rest))
    of_query, others = await asyncio.gather(*both)
    return [*of_query, *others]


def _of_query(
    service: Service, served: Served, question: Question, documents: Selection, shapes: Shapes
) -> Selection:
    """Return the subnet of a query with a budget of its own, in the space of the documents.

    Raises:
        InfeasibleBudgetError: If none of that space is within the budget.
    """
    space = served.elastic.space
    fixed = {axis.name: documents.subnet[axis.name] for axis in space.axes if axis.kind == "output"}
    fixed |= space_choices(served.elastic, documents.subnet)
    resident = None
    if load_axes(space):  # weights that are there for sure
        resident = frozenset(
            {choices_of(space, documents.subnet), choices_of(space, space.largest)}
        )
    question = replace(question, fixed=fixed, resident=resident)
    return service.select(served, question, shapes)


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


def _stage(service: Service, served: Served, subnet: Subnet, task: str) -> _Stage:
    return _Stage(service.variants.prepare(served, subnet, [task]), subnet)


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
