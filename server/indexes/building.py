"""Making an index: vectors by the whole model, and what cheaper queries find of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from search.budget import Budget
from server.clients.caller import Caller
from server.errors import InvalidRequestError
from server.indexes.comparing import compared
from server.indexes.embedding import embedded, passage_of
from server.indexes.fitting import fitted
from server.indexes.index import Index, QueryQuality
from server.indexes.queries import drawn, measured
from server.inputs.sources import Passage
from server.question import Question
from server.served import Served
from server.service import Service

BULK = 999  # the lowest class that a request can have: whoever waits goes first


async def build(
    service: Service,
    served: Served,
    caller: Caller,
    name: str,
    documents: Sequence[tuple[str, str]],
    scorer: Served | None = None,
) -> Index:
    """Embed documents and measure queries.

    Args:
        service: Runs the model, behind all that somebody waits for.
        served: The model.
        caller: Whose the index will be.
        name: Of the index.
        documents: Their ids and texts; what is too long is cut at its end.
        scorer: Compares two texts, and is measured with these; None for none.

    Raises:
        RheostatError: As `Service.infer` and `server.indexes.comparing.compared`.
    """
    passages = [
        Passage(f"documents[{i}].text", text, truncate="right")
        for i, (_, text) in enumerate(documents)
    ]
    best = Budget(strict=True)
    question = Question(None, None, best, served.whole_outputs, caller, priority=BULK)
    vectors, selection, flops = await embedded(service, served, question, passages)
    space = served.space_of(selection.subnet)
    if space is None:
        raise InvalidRequestError(f"model={served.name!r} gives no vectors", "model")
    texts = [text for _, text in documents]
    queries = drawn(texts, Random(0)) if len(texts) > 1 else []
    patch, qualities = None, list[QueryQuality]()
    if queries:
        about = service, served, question, selection
        found = await measured(*about, queries, vectors)
        found, patch = await fitted(*about, texts, vectors, queries, found, time.monotonic)
        qualities = found.qualities
    comparisons = None
    if scorer is not None:
        sentences = [passage_of(one.text) for one in queries]
        own, _, _ = await embedded(service, served, question, sentences)
        asking = replace(question, fixed={})
        comparisons = await compared(service, scorer, asking, texts, queries, own @ vectors.T)
    return Index(
        caller.client,
        name,
        served.name,
        space,
        selection.subnet,
        int(time.time()),
        flops,
        qualities,
        tuple(one for one, _ in documents),
        tuple(texts),
        vectors,
        patch,
        comparisons,
    )
