"""Ranking in stages: the best order for the time, or for the compute, that a request has.

All documents are scored in the cheapest way that pays; then those whose place is most in doubt are
looked at more closely, for as long as the budget goes. `search.refine` chooses. At the deadline the
best order so far is the answer, whatever still runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from search.beliefs import UNSCORED, Beliefs, overlap
from search.budget import Budget
from search.quality.table import FloatArray
from search.refine import Look, next_stage
from server.errors import InvalidRequestError, QuotaExceededError
from server.pacing import Pacing
from server.scoring import QUERY, Scoring

PLACES = 10  # of the list that count where nobody says
MOST_ANSWER = 0.35  # of the time that a request has, to write its answer
_OVERHEAD_S = 0.001  # of a stage
KNOWN_AGREEMENT = 0.8  # of cosines known beforehand with another model's scores; not measured
_PART = 0.34  # of the time left that one stage may take
_SHORTEST_S, _LONGEST_S = 0.02, 0.08  # of a stage: those of others wait for it
_BATCH_S = 0.04  # of a batch that has further stages of any requests: first ones wait for it
_UNDONE = 2.0  # times what a first stage took that was given up, it would have taken


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage, as it went.

    Attributes:
        rung: Of the ladder.
        documents: That were scored.
        macs: Multiply-accumulates.
        seconds: Waiting included.
    """

    rung: int
    documents: int
    macs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Spending:
    """What a ranking may spend.

    Attributes:
        until: When it has to end, on the clock; infinity for never.
        macs: Multiply-accumulates of all texts together; infinity for any.
        quality: Part of the first places that suffices; 1 for the best that can be had.
        places: That count.
    """

    until: float
    macs: float
    quality: float
    places: int

    @classmethod
    def of(cls, budget: Budget, until: float, scoring: Scoring, places: int) -> Spending:
        """Return the limits of a list; a ceiling per input holds for the mean of all."""
        count, best = len(scoring.admitted.items), len(scoring.ladder.rungs) - 1
        whole = float(scoring.cost(best, -1).sum()) / scoring.admitted.selection.fraction
        macs, _ = budget.max_macs(round(whole / count))
        places = min(places, len(scoring.documents))
        return cls(until, macs * count, budget.min_quality or 1.0, places)


async def refine(
    scoring: Scoring,
    limits: Spending,
    pacing: Pacing,
    clock: Callable[[], float],
    known: Sequence[float] | None = None,
    beside: FloatArray | None = None,
) -> tuple[Beliefs, list[StageRun]]:
    """Score documents stage by stage until nothing is worth more, or the budget is spent.

    Args:
        scoring: Of the list.
        limits: Of all stages together.
        pacing: Told how stages went.
        clock: The engine's.
        known: Scores of all documents that are there already; they count as a rung of their own,
            below the others.
        beside: As in `search.beliefs.Beliefs`; None for nothing.

    Returns:
        What is believed of the documents, and the stages.

    Raises:
        QuotaExceededError: If the client cannot pay for the first stage now.
        InvalidRequestError: If it never could.
        InferenceError: If the model failed.
    """
    beliefs = at_first(len(scoring.documents), known, beside)
    stages: list[StageRun] = []
    below = int(known is not None)
    model = scoring.served.name
    while (
        limits.quality >= 1
        or overlap(beliefs, limits.places) < limits.quality
        or not (stages or below)
    ):
        started = clock()
        stage = _choose(scoring, beliefs, limits, pacing, started, below)
        if stage is None or not await _paid(scoring, stage, beliefs, below):
            break
        before = scoring.macs
        rung = stage.rung - below
        is_first = (beliefs.rung == UNSCORED).all()
        longest_s = inf if is_first else _BATCH_S
        scores = await scoring.score(rung, stage.documents.tolist(), limits.until, longest_s)
        taken_s = clock() - started
        if is_first and rung == 0 and limits.until < inf:
            is_done = len(scores) == len(stage.documents)
            told_s = taken_s if is_done else _UNDONE * taken_s
            pacing.note_first(model, len(stage.documents), told_s)
        if limits.until < inf and scores and not scoring.is_here(rung):
            pacing.note_stage(model, stage.cost * len(scores) / len(stage.documents), taken_s)
        stages.append(StageRun(rung, len(scores), scoring.macs - before, taken_s))
        if scores:
            agreement = scoring.ladder.rungs[rung].agreement
            beliefs = beliefs.learn(stage.rung, agreement, [*scores], [*scores.values()])
        if len(scores) < len(stage.documents):
            break  # the time is up
    return beliefs, stages


def at_first(
    count: int, known: Sequence[float] | None, beside: FloatArray | None = None
) -> Beliefs:
    """Return what is believed of documents before any stage, with scores known or without."""
    beliefs = Beliefs.none(count, beside)
    return beliefs if known is None else beliefs.learn(0, KNOWN_AGREEMENT, range(count), known)


def _choose(
    scoring: Scoring, beliefs: Beliefs, limits: Spending, pacing: Pacing, now: float, below: int
) -> Look | None:
    """Return the next stage, in seconds where there is a deadline, else in MACs."""
    left_macs = limits.macs - scoring.macs
    if left_macs == inf and (beliefs.rung == UNSCORED).all() and scoring.is_here(0):
        return Look(0, np.arange(len(beliefs.mean)), 0.0)  # costs next to nothing
    agreements = [*[KNOWN_AGREEMENT] * below, *scoring.ladder.agreements]
    if limits.until == inf:
        costs, starts = _macs(scoring, beliefs, below)
        most = inf if limits.quality >= 1 else _chunk(costs)
        return next_stage(beliefs, agreements, costs, starts, left_macs, limits.places, most)
    costs, starts = _seconds(scoring, beliefs, below)
    model, room = scoring.served.name, scoring.admitted.room
    real_s = limits.until - now - room.delay_s(_SHORTEST_S)
    most = pacing.predicted_s(model, min(max(_PART * real_s, _SHORTEST_S), _LONGEST_S))
    stage = None
    for left_s in (pacing.affordable_s(model, real_s), pacing.predicted_s(model, real_s)):
        # What fits with nothing set aside may well be done, where nothing else fits.
        stage = stage or next_stage(beliefs, agreements, costs, starts, left_s, limits.places, most)
    if now < limits.until and (beliefs.rung == UNSCORED).all():
        # What is predicted not to fit may fit, and what is done of it is better than nothing.
        rung = 0 if stage is None else stage.rung
        stage = Look(rung, np.arange(len(beliefs.mean)), float(costs[rung].sum() + starts[rung]))
    if stage is None or left_macs == inf:
        return stage
    macs, needed = _macs(scoring, beliefs, below)
    summed = needed[stage.rung] + np.cumsum(macs[stage.rung][stage.documents])
    count = int(np.searchsorted(summed, left_macs, side="right"))
    return Look(stage.rung, stage.documents[:count], stage.cost) if count else None


def _chunk(costs: FloatArray) -> float:
    """Return what a stage may cost that ends as soon as the order is good enough."""
    known = costs[np.isfinite(costs)]
    return float(known.max()) * 4 if len(known) else inf


async def _paid(scoring: Scoring, stage: Look, beliefs: Beliefs, below: int) -> bool:
    """Charge a stage; return whether the client could pay for it.

    Raises:
        QuotaExceededError: If it cannot even pay for the first.
        InvalidRequestError: Likewise.
    """
    macs, starts = _macs(scoring, beliefs, below)
    needed = float(macs[stage.rung][stage.documents].sum() + starts[stage.rung])
    try:
        await scoring.admitted.pay(2 * needed)
    except (QuotaExceededError, InvalidRequestError):
        if (beliefs.rung == UNSCORED).all():
            raise
        return False
    return True


def _macs(scoring: Scoring, beliefs: Beliefs, below: int) -> tuple[FloatArray, FloatArray]:
    """Return the MACs of each document by each rung, and of what each rung needs besides."""
    rungs = range(len(scoring.ladder.rungs))
    places = [scoring.place(i) for i in scoring.documents]
    costs = np.full((below + len(rungs), len(places)), inf)
    before = np.array([scoring.before(i) for i in scoring.documents])
    for rung in rungs:
        for own in set(before.tolist()):
            is_open = (before == own) & (beliefs.rung < rung + below)
            if is_open.any() and own < rung:
                costs[rung + below, is_open] = scoring.cost(rung, own)[places][is_open]
    return costs, np.array([0.0] * below + [_query_macs(scoring, rung) for rung in rungs])


def _query_macs(scoring: Scoring, rung: int) -> float:
    if scoring.is_here(rung):
        return float(scoring.cost(rung, -1)[0])
    if not scoring.needs_query(rung):
        return 0.0
    own = scoring.query_rung(rung)
    return float(scoring.cost(own, scoring.before(QUERY))[0])


def _seconds(scoring: Scoring, beliefs: Beliefs, below: int) -> tuple[FloatArray, FloatArray]:
    """Return the predicted seconds of each document by each rung, and of what each needs besides.

    What goes on from a lower rung takes the part of the time that it takes of the MACs.
    """
    costs, _ = _macs(scoring, beliefs, below)
    places = [scoring.place(i) for i in scoring.documents]
    starts = [0.0] * below
    for rung in range(len(scoring.ladder.rungs)):
        times = scoring.seconds(rung)
        costs[rung + below] *= (times / scoring.cost(rung, -1))[places]
        query = scoring.seconds(scoring.query_rung(rung))[0] if scoring.needs_query(rung) else 0.0
        starts.append(_OVERHEAD_S + float(query))
    return costs, np.array(starts)


def reached(beliefs: Beliefs, below: int) -> Sequence[int | None]:
    """Return the rung of the ladder of each document; None for those without a score of it."""
    return [None if rung < below else rung - below for rung in beliefs.rung.tolist()]
