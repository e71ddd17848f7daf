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
    adapter: str | None = None,
    scorer: Served | None = None,
) -> Index:
    """Embed documents and measure queries.

    Args:
        service: Runs the model, behind all that somebody waits for.
        served: The model.
        caller: Whose the index will be.
        name: Of the index.
        documents: Their ids and texts; what is too long is cut at its end.
        adapter: As in `Question`.
        scorer: Compares two texts, and is measured with these; None for none.

    Raises:
        RheostatError: As `Service.infer` and `server.indexes.comparing.compared`.
    """
    texts = [text for _, text in documents]
    passages = [Passage(f"documents[{i}].text", t, truncate="right") for i, t in enumerate(texts)]
    wish = Budget(strict=True), served.whole_outputs, caller
    question = Question(None, None, *wish, priority=BULK, adapter=adapter)
    adapters = service.adapters(served, question)
    vectors, selection, flops = await embedded(service, served, question, passages)
    if (space := served.space_of(selection.subnet, adapters)) is None:
        raise InvalidRequestError(f"model={served.name!r} gives no vectors", "model")
    queries = drawn(texts, Random(0))
    qualities: list[QueryQuality] = []
    patch = comparisons = None
    if len(texts) > 1:
        about = service, served, question, selection
        known = await measured(*about, queries, vectors)
        known, patch = await fitted(*about, texts, vectors, queries, known, time.monotonic)
        qualities = known.qualities
    if scorer is not None:
        passages = [passage_of(one.text) for one in queries]
        found, *_ = await embedded(service, served, question, passages)
        asking = replace(question, fixed={}, adapter=None)
        comparisons = await compared(service, scorer, asking, texts, queries, found @ vectors.T)
    return Index(
        caller.client,
        name,
        served.name,
        space,
        selection.subnet,
        int(time.time()),
        flops,
        qualities,
        [one for one, _ in documents],
        texts,
        vectors,
        adapter=next(iter(adapters), ""),
        patch=patch,
        comparisons=comparisons,
    )
