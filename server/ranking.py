"""How a list is to be ranked, and how it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from models.space import Subnet
from models.tasks import Kind
from search.find import Selection
from server.choose import Choice, Question
from server.errors import InvalidRequestError
from server.observe.metrics import Stage
from server.refining import StageRun
from server.served import Served

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
class Stages:
    """How a ranking went that had a budget to spend as it liked.

    Attributes:
        rungs: Subnets that could score, cheapest first.
        reached: Of each document, the number of the last rung that scored it; None for none.
        runs: In order.
        overlap: Part of the first places that the best rung is expected to give to the same
            documents, 0..1.
        ended: When its answer was to be begun, on the service's clock.
    """

    rungs: Sequence[Subnet]
    reached: Sequence[int | None]
    runs: Sequence[StageRun]
    overlap: float
    ended: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Documents in order, and what it took.

    Attributes:
        choice: The subnet chosen, and how; in stages the best that scored a document.
        order: Indices of the documents, best first.
        scores: Of each document. In stages they are on the scale of the best rung reached.
        scale: ``cosine`` with the query, -1..1; or ``logit``, any number.
        deepened: Indices of the documents that went deeper; empty without a cascade.
        macs: Multiply-accumulates of the whole request.
        num_tokens: Read, the query included.
        seconds: Per stage.
        query: What was chosen for the query alone; None if it has the documents' subnet.
        stages: Where the ranking had any.
        adapters: Of the texts, each once.
    """

    choice: Choice
    order: list[int]
    scores: list[float]
    scale: Scale
    deepened: list[int] = field(default_factory=list)
    macs: int = 0
    num_tokens: int = 0
    seconds: Mapping[Stage, float] = field(default_factory=dict)
    query: Selection | None = None
    stages: Stages | None = None
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """How a list is to be ranked.

    Attributes:
        cascade: In two passes of the client's choice.
        query: What is asked for the query alone, which then gets a subnet of its own.
        in_stages: Whether the budget may be spent on some documents more than on others. None: if
            it has a deadline.
        places: Of the list that count; None where nobody says.
        known: Cosines of the documents that are known beforehand; then it goes on in stages.
        lexical_weight: Of the query's words in a document, beside the model's score, both in
            standard deviations of the list.
    """

    cascade: Cascade | None = None
    query: Question | None = None
    in_stages: bool | None = None
    places: int | None = None
    known: Sequence[float] | None = None
    lexical_weight: float = 0.0


def task_of(served: Served, selection: Selection, kind: Kind) -> str:
    """Return the first task of a kind that a selection answers."""
    return next(task for task in selection.scores if served.elastic.tasks[task].kind == kind)


def check_wish(is_pairs: bool, wish: Wish) -> None:
    """Refuse what does not go together.

    Raises:
        InvalidRequestError: Naming the field.
    """
    if wish.query is not None and (is_pairs or wish.cascade is not None):
        what = "with a cascade" if wish.cascade is not None else "of a model that reads pairs"
        raise InvalidRequestError(f"query_budget cannot be used {what}", "query_budget")
    if wish.lexical_weight and wish.cascade is not None:
        raise InvalidRequestError(
            f"lexical_weight={wish.lexical_weight:g} cannot be used with a cascade",
            "lexical_weight",
        )
    for name, given in (("cascade", wish.cascade), ("query_budget", wish.query)):
        if wish.in_stages and given is not None:
            raise InvalidRequestError(f"in_stages=true cannot be used with {name}", "in_stages")
