"""A static exit's vectors of tokens, fitted to the documents of an index and kept with it.

What is fitted on are the documents, whose vectors are there already, and some of their sentences,
which look like queries. Documents that the measured queries are from are left out, so that what is
told of queries without layers was not learnt by heart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from models.elasticize.static_patch import StaticPatch, fit_patch
from models.inputs.text import text_input
from models.nn.static import Static, static_of
from models.space import Subnet
from search.find import Selection
from server.indexes.embedding import CHUNK, embedded, passage_of
from server.indexes.queries import Findings, Sentence, nearest_of, quality_of, sentences_of
from server.inputs.sources import Passage
from server.question import Question
from server.ranking import task_of
from server.served import Served
from server.service import Service

_LEAST_DOCUMENTS = 100  # beside those of the queries
_MOST_SENTENCES = 2000  # that are embedded for it
_FIT_S = 10.0


async def fitted(
    service: Service,
    served: Served,
    question: Question,
    best: Selection,
    texts: Sequence[str],
    vectors: Tensor,
    queries: Sequence[Sentence],
    found: Findings,
    clock: Callable[[], float],
) -> tuple[Findings, StaticPatch | None]:
    """Fit the static exit of an index's space to its documents, if it has one.

    Args:
        service: Runs the model.
        served: The model.
        question: By whom and with which class.
        best: The subnet of the documents' vectors.
        texts: Of all documents.
        vectors: Of these, shape [documents, dim].
        queries: That were measured; the documents that they are from are not fitted on.
        found: Of them.
        clock: Seconds; the fit ends after some of them.

    Returns:
        What queries find, with those without layers by what was fitted, where they find more so;
        and what was fitted, where they do.

    Raises:
        RheostatError: As `Service.infer`.
    """
    cheapest = found.qualities[0] if found.qualities else None
    static = None if cheapest is None else static_exit(served, Subnet(cheapest.subnet), best)
    held_out = {one.document for one in queries}
    rest = [i for i in range(len(texts)) if i not in held_out]
    if cheapest is None or static is None or len(rest) < _LEAST_DOCUMENTS:
        return found, None
    every = [one for i in rest for one in sentences_of(texts[i])]
    sentences = Random(0).sample(every, min(_MOST_SENTENCES, len(every)))
    learnt = [vectors[rest]]
    if sentences:
        same = replace(question, fixed=dict(best.subnet))
        learnt.append((await embedded(service, served, same, [*map(passage_of, sentences)]))[0])
    passages = [passage_of(one) for one in (*(texts[i] for i in rest), *sentences)]
    ids = await token_ids(service, served, question, passages)
    patch = await asyncio.to_thread(_fit, ids, torch.cat(learnt), static, clock)
    asked = [passage_of(one.text) for one in queries]
    asked_ids = await token_ids(service, served, question, asked)
    nearest = await nearest_of(vectors, patch.vectors(asked_ids, static))
    told = quality_of(cheapest.subnet, cheapest.flops, nearest, found.whole, is_fitted=True)
    if told.overlap <= cheapest.overlap:
        return found, None
    return found._replace(qualities=[told, *found.qualities[1:]]), patch


def static_exit(served: Served, subnet: Subnet, selection: Selection) -> Static | None:
    """Return the static exit that a subnet is; None if it is none, or its weights are not here."""
    task = task_of(served, selection, "embedding")
    static = static_of(served.elastic.plan(subnet, served.inputs.plan_shapes(), [task]))
    return None if static is None or static.table.is_meta else static


async def token_ids(
    service: Service, served: Served, question: Question, passages: Sequence[Passage]
) -> list[Tensor]:
    """Return the token ids of texts, read on the threads that read requests, some at a time."""
    read = text_input(served.inputs)
    found: list[Tensor] = []
    for first in range(0, len(passages), CHUNK):
        some = passages[first : first + CHUNK]
        found += await service.read(lambda one: one.decode(read), some, question.caller)
    return found


def _fit(
    ids: Sequence[Tensor], vectors: Tensor, static: Static, clock: Callable[[], float]
) -> StaticPatch:
    until = clock() + _FIT_S
    return fit_patch(ids, vectors.numpy(), static, lambda done, of: clock() < until)
