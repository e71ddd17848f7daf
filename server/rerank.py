"""Ranking texts by their vectors' cosine with a query's, or by what a model says of each pair.

In one pass, in a cascade, or in as many stages as the budget allows (`server.refining`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np

from models.core import Shapes
from models.inputs import num_tokens
from models.variants import choices_of, load_axes
from models.vectors import comparable_choices
from search.beliefs import Beliefs, overlap, scores_of
from search.find import Selection
from search.quality.table import FloatArray
from server.choose import Choice, Question
from server.clients.inherit import inherited
from server.errors import DeadlineError, InvalidRequestError
from server.inputs.sources import Source
from server.observe.metrics import Stage
from server.ranking import Cascade, Ranking, Stages, Wish, check_wish, task_of
from server.refining import MOST_ANSWER, PLACES, Spending, at_first, reached, refine
from server.rungs import Rung, Rungs
from server.scoring import QUERY, Scoring
from server.served import Served
from server.service import Service

_ANY_WISH = Wish()


async def rerank(
    service: Service,
    served: Served,
    question: Question,
    query: Source,
    documents: Sequence[Source],
    wish: Wish = _ANY_WISH,
) -> Ranking:
    """Rank documents by cosine, or by the scores of a model that compares two texts.

    With a question of its own the query gets a subnet of its own, in the documents' space.

    With a cascade the query and the best documents go on from the state that the shallow exit
    read, so that no layer runs twice. Those that went deeper stay ahead of the others: scores of
    two exits are not one scale. Where load makes the subnet no deeper than the cascade's first
    pass, that is all there is.

    Raises:
        RheostatError: As `Service.infer`; InvalidRequestError for a wish that cannot be.
    """
    is_pairs = _compares(served)
    check_wish(is_pairs, wish)
    items = [
        *([] if is_pairs else served.named("text", [query])),
        *(_pairs(served, query, documents) if is_pairs else served.named("text", documents)),
    ]
    if _is_in_stages(served, question, wish):
        return await _in_stages(service, served, question, items, is_pairs, wish)
    return await _at_once(service, served, question, items, is_pairs, wish)


async def _at_once(
    service: Service,
    served: Served,
    question: Question,
    items: Sequence[Mapping[str, Source]],
    is_pairs: bool,
    wish: Wish,
) -> Ranking:
    """Rank by the subnet chosen, in one pass or in a cascade."""
    cascade = wish.cascade
    num_more = min(cascade.keep, len(items) - (not is_pairs)) + (not is_pairs) if cascade else 0
    async with service.admit(served, question, items, num_more) as admitted:
        task = task_of(served, admitted.selection, "score" if is_pairs else "embedding")
        of_query, alone = None, None
        if wish.query is not None:
            shapes = served.inputs.shapes(admitted.items[0])
            of_query = _of_query(service, served, wish.query, admitted.selection, shapes)
            alone = Rungs(served, task, [Rung(of_query.subnet)])
        ladder = Rungs(served, task, _rungs(served, admitted.choice, cascade))
        scoring = Scoring(service, served, admitted, ladder, is_pairs, alone)
        found = await scoring.score(0, scoring.documents)
        scores = [found[i] for i in scoring.documents]
        if (beside := await _beside(scoring, wish)) is not None:
            scores = (np.array(scores) + np.std(scores) * beside).tolist()
        deepened: list[int] = []
        if cascade is not None and len(ladder.rungs) > 1:
            deepened = _best_first(scores)[: cascade.keep]
            for i, score in (await scoring.score(1, deepened)).items():
                scores[i] = score
        if cascade is None and of_query is None:
            first = [] if is_pairs else [QUERY]
            results = [scoring.results[i] for i in (*first, *scoring.documents)]
            service.audit.note(admitted, served, results, is_list=True)
    is_deep = set(deepened)
    return Ranking(
        admitted.choice,
        sorted(scoring.documents, key=lambda i: (i not in is_deep, -scores[i])),
        scores,
        "logit" if is_pairs else "cosine",
        deepened,
        scoring.macs,
        sum(map(num_tokens, admitted.items)),
        admitted.seconds,
        of_query,
        adapters=admitted.adapters,
    )


async def _in_stages(
    service: Service,
    served: Served,
    question: Question,
    items: Sequence[Mapping[str, Source]],
    is_pairs: bool,
    wish: Wish,
) -> Ranking:
    """Rank as well as the budget allows; where it ends before a score is there, as they came.

    With scores known beforehand that is the order by these.
    """
    best = question.of_the_best()
    count, begun = len(items) - (not is_pairs), service.clock()
    answer_s = service.pacing.answer_s(count)
    spare_s = answer_s + service.pacing.first_s(served.name, count)
    try:
        async with service.admit(served, question, items, spare_s=spare_s) as admitted:
            task = task_of(served, admitted.selection, "score" if is_pairs else "embedding")
            resident = service.variants.resident(served)
            ladder = service.pacing.ladder(
                served, admitted.selection, task, resident, by_time=admitted.deadline < inf
            )
            scoring = Scoring(service, served, admitted, ladder, is_pairs, in_stages=True)
            given_s = admitted.deadline - begun
            until = admitted.deadline - min(answer_s, MOST_ANSWER * given_s)
            limits = Spending.of(admitted.question.budget, until, scoring, wish.places or PLACES)
            read = [i - (not is_pairs) for i in admitted.read if i or is_pairs]
            known = None if wish.known is None else [wish.known[i] for i in read]
            beside = await _beside(scoring, wish)
            part, runs = await refine(scoring, limits, service.pacing, service.clock, known, beside)
            beliefs = at_first(count, wish.known).with_part(read, part)
            admitted.flops = 2 * scoring.macs
            ended = service.clock()
    except DeadlineError:  # before anything was read
        selection = service.select(served, best, served.inputs.plan_shapes())
        taken_s = service.clock() - begun
        return as_they_came(
            Choice(selection, False, taken_s), at_first(count, wish.known), begun, taken_s, wish
        )
    top = int(beliefs.rung.max()) - (wish.known is not None)
    are_known = top < 0 and wish.known is not None  # which are cosines
    return Ranking(
        _reached_choice(service, scoring, best, top),
        beliefs.order.tolist(),
        scores_of(beliefs).tolist(),
        "logit" if is_pairs and not are_known else "cosine",
        macs=scoring.macs,
        num_tokens=sum(map(num_tokens, admitted.items)),
        seconds=admitted.seconds,
        stages=Stages(
            [rung.subnet for rung in ladder.rungs],
            reached(beliefs, wish.known is not None),
            runs,
            overlap(beliefs, limits.places),
            min(until, ended),
        ),
        adapters=admitted.adapters,
    )


async def _beside(scoring: Scoring, wish: Wish) -> FloatArray | None:
    """Return what counts beside the model's scores, in their standard deviations; None: nothing."""
    return wish.lexical_weight * await scoring.lexical() if wish.lexical_weight else None


def _reached_choice(service: Service, scoring: Scoring, best: Question, top: int) -> Choice:
    """Return the choice of the highest rung that scored a document; of the lowest if none did."""
    admitted, rungs = scoring.admitted, scoring.ladder.rungs
    if top == len(rungs) - 1:
        return admitted.choice
    chosen = replace(best, fixed=dict(rungs[max(top, 0)].subnet))
    shapes = scoring.served.inputs.upper(admitted.items)
    return replace(admitted.choice, selection=service.select(scoring.served, chosen, shapes))


def as_they_came(
    choice: Choice, beliefs: Beliefs, begun: float, taken_s: float, wish: Wish = _ANY_WISH
) -> Ranking:
    """Return the ranking of a request that ran out of time before anything was read."""
    places = min(wish.places or PLACES, len(beliefs.mean))
    return Ranking(
        choice,
        beliefs.order.tolist(),
        scores_of(beliefs).tolist(),
        "cosine",
        seconds=dict.fromkeys(Stage, 0.0) | {Stage.DECODE: taken_s, Stage.TOTAL: taken_s},
        stages=Stages(
            [], [None] * len(beliefs.mean), [], overlap(beliefs, places), begun + taken_s
        ),
    )


def _is_in_stages(served: Served, question: Question, wish: Wish) -> bool:
    """Return whether a budget may be spent unevenly.

    Raises:
        InvalidRequestError: If it has a deadline and nothing is known of times.
    """
    if wish.known is not None:
        return True
    if wish.in_stages is False or wish.cascade is not None or wish.query is not None:
        return False
    latency_ms = inherited(question, served).budget.latency_ms
    if latency_ms is not None and served.profile is None:
        raise InvalidRequestError(
            f"budget.latency_ms={latency_ms:g}: no times have been measured of {served.name}",
            "budget.latency_ms",
        )
    return bool(wish.in_stages) or latency_ms is not None


def _of_query(
    service: Service, served: Served, question: Question, documents: Selection, shapes: Shapes
) -> Selection:
    """Return the subnet of a query with a budget of its own, in the space of the documents.

    Raises:
        InfeasibleBudgetError: If none of that space is within the budget.
    """
    space = served.elastic.space
    fixed = comparable_choices(served.elastic, documents.subnet)
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


def _pairs(served: Served, query: Source, documents: Sequence[Source]) -> list[dict[str, Source]]:
    assert served.pair is not None, "or it would not compare"
    first, second = served.pair
    return [{first: query, second: document} for document in documents]


def _rungs(served: Served, choice: Choice, cascade: Cascade | None) -> list[Rung]:
    """Return the rung chosen, after that of a cascade's first pass.

    Raises:
        InvalidRequestError: If there can be no such pass.
    """
    subnet = choice.selection.subnet
    if cascade is None:
        return [Rung(subnet)]
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
            return [Rung(subnet)]  # load has left nothing to go on to
        raise InvalidRequestError(
            f"cascade.depth={cascade.depth} must be an exit before the chosen one "
            f"({axis.name}={chosen}); one of {allowed}",
            "cascade.depth",
        )
    return [Rung(subnet | {axis.name: cascade.depth}), Rung(subnet)]


def _best_first(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])
