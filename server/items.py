"""The items of a request: whether they are the model's, what they cost, how long they may take."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

from models.core import Shapes, shared_cost
from models.inputs import InvalidInputError, Item
from search.find import Selection
from server.choose import Question
from server.engine.item import PreparedPlan
from server.errors import InvalidRequestError, shown
from server.inputs.sources import Passage, Sources
from server.served import Served


def check_inputs(served: Served, items: Sequence[Sources]) -> None:
    """Refuse items that lack an input, or that do not all have the same ones."""
    try:
        served.inputs.check(items[0])
    except InvalidInputError as error:
        raise InvalidRequestError(str(error), "inputs") from None
    for i, item in enumerate(items):
        if item.keys() != items[0].keys():
            raise InvalidRequestError(
                f"inputs[{i}] has {list(item)}, inputs[0] {list(items[0])}; all must have the same",
                f"inputs[{i}]",
            )


def with_adapter(served: Served, question: Question, items: Sequence[Sources]) -> list[Sources]:
    """Return items that name the adapter of a question, where they name none themselves.

    Raises:
        InvalidRequestError: If the model has no adapters.
    """
    name = _adapter_input(served, question)
    if name is None or not question.adapter:
        return list(items)
    source = Passage("adapter", question.adapter)
    return [{name: source, **item} for item in items]


def with_adapter_shape(served: Served, question: Question, shapes: Shapes) -> Shapes:
    """Return shapes that have an adapter's if the question names one, and only then.

    Raises:
        InvalidRequestError: If the model has no adapters, or none of the name.
    """
    name = _adapter_input(served, question)
    if name is None:
        return shapes
    found = {key: shape for key, shape in shapes.items() if key != name}
    if question.adapter:
        of = served.inputs[name].type
        found[name] = of.shape_of(Passage("adapter", question.adapter).decode(of))
    return found


def adapters_of(served: Served, items: Iterable[Item]) -> tuple[str, ...]:
    """Return the names of the adapters of items, each once."""
    name = served.inputs.adapter
    named = (item[name] for item in items if name is not None and name in item)
    return tuple(sorted({str(one.digest) for one in named}))


def _adapter_input(served: Served, question: Question) -> str | None:
    name = served.inputs.adapter
    if name is None and question.adapter:
        raise InvalidRequestError(
            f"adapter={shown(question.adapter)}: model {served.name!r} has no adapters", "adapter"
        )
    return name


def for_inputs(question: Question, served: Served, names: Collection[str]) -> Question:
    """Return a question about the subnets that there are for an item's inputs."""
    try:
        given = served.inputs.given_choices(served.elastic.space.axes, names)
    except InvalidInputError as error:
        raise InvalidRequestError(str(error), "inputs") from None
    return replace(question, fixed={**question.fixed, **given}) if given else question


def flops_of(served: Served, selection: Selection, shapes: Shapes, items: Sequence[Item]) -> int:
    """Return the FLOPs of a request: what its items share is counted once."""
    if len(shapes) == 1:
        return selection.cost.flops * len(items)
    plan = served.elastic.plan(selection.subnet, shapes, list(selection.scores))
    return shared_cost((plan, contents_of(item)) for item in items).flops


def macs_of(prepared: PreparedPlan, items: Sequence[Item]) -> float:
    """Return the MACs of items by a plan of the model's own shapes, counted as `flops_of` does."""
    if len(items[0]) == 1 or prepared.known:
        return float(prepared.macs * len(items))
    return float(shared_cost((prepared.plan, contents_of(item)) for item in items).macs)


def contents_of(item: Item) -> Mapping[str, Hashable]:
    """Return by input what is equal for equal contents."""
    return {name: one.digest for name, one in item.items()}


def estimate_s(served: Served, question: Question, items: Sequence[Sources]) -> float:
    """Return the seconds that items may take at least, before they are decoded."""
    budget = question.budget
    is_whole = bool(budget.strict) and not budget.names_limit
    known = served.elastic.tasks.keys()
    # Whether all that are asked for exist is checked later, by what refuses the request.
    tasks = frozenset(known & question.tasks if question.tasks else ()) or frozenset(known)
    prepared, longest = served.bound(is_whole, tasks, tuple(items[0]))
    return sum(
        prepared.share(
            {name: min(longest[name], one.num_tokens) for name, one in item.items()}
        ).more
        for item in items
    )
