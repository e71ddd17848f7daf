"""The protocol of Text Embeddings Inference (TEI), as far as sentence vectors can answer it.

As there, a text that is too long is cut unless the client says otherwise. Requests name no model;
where several take texts, our own field ``model`` is needed. A budget may stand in ``x-rheostat-*``
headers or in a field ``budget``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from fastapi import APIRouter, Request, Response

from server.api.answer import receipt_headers, unless_gone
from server.api.body import read_json
from server.api.dimensions import fixed_dimensions
from server.api.documentation import errors, inlined, request_docs
from server.api.options import options_of
from server.api.ranking import RankingRequest, ranked, unit_scores
from server.api.sides import side_of_prompt
from server.api.tei.form import TEI, check_any, form
from server.api.tei.schema import (
    EmbedBody,
    TeiRank,
    TeiRerankBody,
    TeiSimilarityBody,
)
from server.api.texts import passages
from server.clients.caller import caller_of
from server.errors import (
    ModelNotReadyError,
)
from server.inputs.sources import Passage
from server.observe.metrics import Stage, Tally
from server.service import Service
from server.settings import Settings

_STATUSES = (400, 404, 413, 415, 422, 424, 429, 504)


_EMBED_PATHS = ("/embed", "/")
TIMING_HEADERS = (
    "x-compute-type",
    "x-compute-time",
    "x-compute-characters",
    "x-compute-tokens",
    "x-total-time",
    "x-tokenization-time",
    "x-queue-time",
    "x-inference-time",
)
_HEALTH_PATHS = ("/health", "/ping")
FORMS = dict.fromkeys(
    (
        *_EMBED_PATHS,
        *_HEALTH_PATHS,
        "/rerank",
        "/similarity",
        "/predict",
        "/tokenize",
        "/decode",
        "/info",
    ),
    form,
)


def routes(service: Service, settings: Settings) -> APIRouter:
    """Return the routes of this protocol but for `/rerank`, which others claim too."""
    router = APIRouter(tags=["TEI"])
    documented = partial(errors, by=[TEI])

    async def embed(request: Request, response: Response) -> list[list[float]]:
        """Embed texts with the best subnet that the budget allows."""
        with service.metrics.request() as tally:
            body = await read_json(request, EmbedBody)
            served = service.models_of(caller_of(request)).choose(
                body.model, "text", gives=("embedding",)
            )
            tally.model = served.name
            check_any(request, "inputs", body.inputs)
            texts = passages("inputs", body.inputs, settings.max_texts, body.prompt_name, body.side)
            question = options_of(request).question(
                caller_of(request),
                body.budget,
                fixed=fixed_dimensions(served, body.dimensions),
                priority=body.priority,
                adapter=body.adapter,
                raw=not body.normalize,
                side=side_of_prompt(body.prompt_name),
            )
            answer = await unless_gone(
                request, service.infer(served, question, served.named("text", texts))
            )
        response.headers.update(receipt_headers(served, answer.selection))
        response.headers.update(
            timing_headers(answer.seconds, answer.backend, texts, sum(answer.num_tokens))
        )
        return [next(iter(outputs.values())).tolist() for outputs in answer.outputs]

    for path in _EMBED_PATHS:
        router.add_api_route(
            path,
            embed,
            methods=["POST"],
            openapi_extra=request_docs(json=inlined(EmbedBody)),
            responses=documented(*_STATUSES),
        )

    @router.post(
        "/similarity",
        openapi_extra=request_docs(json=inlined(TeiSimilarityBody)),
        responses=documented(*_STATUSES),
    )
    async def similarity(request: Request, response: Response) -> list[float]:
        """Return the cosine of each sentence with one."""
        with service.metrics.request() as tally:
            body = await read_json(request, TeiSimilarityBody)
            cut, inputs = body.parameters, body.inputs
            prompt, side = (cut.prompt_name, cut.side) if cut else (None, "right")
            field = "inputs.sentences"
            check_any(request, field, inputs.sentences)
            ranking_request = RankingRequest(
                Passage("inputs.source_sentence", inputs.source_sentence, prompt, side),
                passages(field, inputs.sentences, settings.max_texts, prompt, side),
                body.model,
                body.budget,
                priority=body.priority,
                adapter=body.adapter,
            )
            ranking, _ = await ranked(
                service, request, response, tally, ranking_request, ("embedding",)
            )
        texts = [ranking_request.query, *ranking_request.documents]
        response.headers.update(
            timing_headers(ranking.seconds, service.backend_name, texts, ranking.num_tokens)
        )
        return ranking.scores

    async def health() -> Response:
        """Say with an empty answer whether every model has run once and the worker is alive."""
        if not service.is_ready:
            raise ModelNotReadyError("not ready: starting, stopping, or the worker has died")
        return Response()

    for path in _HEALTH_PATHS:
        router.add_api_route(
            path, health, response_class=Response, responses=documented(503, public=True)
        )
    return router


async def rerank(
    service: Service, request: Request, response: Response, tally: Tally, max_texts: int
) -> list[TeiRank]:
    """Answer a body with ``texts``, and its errors, as TEI does."""
    request.scope["state"]["form"] = form
    body = await read_json(request, TeiRerankBody)
    check_any(request, "texts", body.texts)
    ranking_request = RankingRequest(
        Passage("query", body.query, truncate=body.side),
        passages("texts", body.texts, max_texts, truncate=body.side),
        body.model,
        body.budget,
        priority=body.priority,
        adapter=body.adapter,
    )
    ranking, _ = await ranked(service, request, response, tally, ranking_request)
    texts = [ranking_request.query, *ranking_request.documents]
    response.headers.update(
        timing_headers(ranking.seconds, service.backend_name, texts, ranking.num_tokens)
    )
    scores = ranking.scores if body.raw_scores else unit_scores(ranking)
    ranks = [TeiRank(index=i, score=scores[i]) for i in ranking.order]
    if body.return_text:
        for rank in ranks:
            rank.text = body.texts[rank.index]
    return ranks


def timing_headers(
    seconds: Mapping[Stage, float], backend: str, texts: Sequence[Passage], num_tokens: int
) -> dict[str, str]:
    """Return TEI's headers; times are whole milliseconds.

    Args:
        seconds: Per stage.
        backend: What ran the model.
        texts: Of the request.
        num_tokens: That were read.
    """
    total = _milliseconds(seconds[Stage.TOTAL])
    num_characters = sum(len(text.content) for text in texts if isinstance(text.content, str))
    values = (
        backend,
        total,
        str(num_characters),
        str(num_tokens),
        total,
        _milliseconds(seconds[Stage.DECODE]),
        _milliseconds(seconds[Stage.QUEUE]),
        _milliseconds(seconds[Stage.RUN]),
    )
    return dict(zip(TIMING_HEADERS, values, strict=True))


def _milliseconds(seconds: float) -> str:
    return str(int(1000 * seconds))
