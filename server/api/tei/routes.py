"""The protocol of Text Embeddings Inference (TEI), as far as sentence vectors can answer it.

As there, a text that is too long is cut unless the client says otherwise. Requests name no model;
where several take texts, our own field ``model`` is needed. A budget may stand in ``x-rheostat-*``
headers or in a field ``budget``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from models.checkpoint import WEIGHTS
from models.inputs import InvalidInputError
from models.inputs.text import TextInput, text_input
from server.api.answer import receipt_headers, receipt_of, unless_gone
from server.api.body import read_json
from server.api.dimensions import allowed_dimensions, fixed_dimensions
from server.api.documentation import Spelling, errors, inlined, request_docs
from server.api.options import options_of
from server.api.ranking import RankingRequest, ranked, unit_score
from server.api.tei.schema import (
    DecodeBody,
    EmbedBody,
    ModelType,
    Pooling,
    SimpleToken,
    TeiError,
    TeiInfo,
    TeiRank,
    TeiRerankBody,
    TeiSimilarityBody,
    TokenizeBody,
)
from server.api.texts import passages
from server.clients.caller import caller_of
from server.errors import (
    ClientError,
    DeadlineError,
    InferenceError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    RheostatError,
    UnavailableError,
)
from server.http.forms import Form
from server.inputs.sources import Passage
from server.observe.metrics import Stage, Tally
from server.served import Served
from server.service import Service
from server.settings import Settings

_STATUSES = (400, 404, 413, 415, 422, 424, 429, 504)
_POOLING = {"last": "last_token"}  # where TEI has another word


def form(error: RheostatError, _request_id: str, kind: str = "", status: int = 0) -> Response:
    """Spell an error as TEI does.

    Args:
        error: The error.
        kind: TEI's type, where only the route knows it.
        status: Likewise.
    """
    if error.status == 401:
        return Response(status_code=401, headers=dict(error.headers))
    match error:
        case OverloadedError() | DeadlineError():
            found = error.status, "Overloaded"
        case UnavailableError():
            found = error.status, "Unhealthy"
        case InferenceError():
            found = 424, "Backend"
        case ClientError():
            found = error.status, "Validation"
        case _:  # nobody foresaw it
            found = error.status, "Backend"
    body = {
        "error": error.message,
        "error_type": kind or found[1],
        "field": error.field,
        **error.extra(),
    }
    return JSONResponse(body, status_code=status or found[0], headers=dict(error.headers))


TEI = Spelling(form, TeiError)
_EMPTY: Form = partial(form, kind="Empty", status=400)
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
    (*_EMBED_PATHS, *_HEALTH_PATHS, "/rerank", "/similarity", "/tokenize", "/decode", "/info"), form
)


def routes(service: Service, settings: Settings) -> APIRouter:
    """Return the routes of this protocol but for `/rerank`, which others claim too."""
    router = APIRouter(tags=["TEI"])
    documented = partial(errors, by=[TEI])

    async def embed(request: Request, response: Response) -> list[list[float]]:
        """Embed texts with the best subnet that the budget allows."""
        with service.metrics.request() as tally:
            body = await read_json(request, EmbedBody)
            served = service.models_of(caller_of(request)).choose(body.model, "text")
            tally.model = served.name
            _check_any(request, "inputs", body.inputs)
            texts = passages("inputs", body.inputs, settings.max_texts, body.prompt_name, body.side)
            question = options_of(request).question(
                caller_of(request),
                body.budget,
                fixed=fixed_dimensions(served, body.dimensions),
                priority=body.priority,
                raw=not body.normalize,
            )
            answer = await unless_gone(
                request, service.infer(served, question, served.named("text", texts))
            )
        response.headers.update(receipt_headers(receipt_of(served, answer)))
        response.headers.update(
            _timing(answer.seconds, answer.backend, texts, sum(answer.num_tokens))
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
            _check_any(request, field, inputs.sentences)
            asked = RankingRequest(
                Passage("inputs.source_sentence", inputs.source_sentence, prompt, side),
                passages(field, inputs.sentences, settings.max_texts, prompt, side),
                body.model,
                body.budget,
                priority=body.priority,
            )
            ranking, _ = await ranked(service, request, response, tally, asked)
        texts = [asked.query, *asked.documents]
        response.headers.update(
            _timing(ranking.seconds, service.backend_name, texts, ranking.num_tokens)
        )
        return ranking.scores

    @router.post(
        "/tokenize",
        openapi_extra=request_docs(json=inlined(TokenizeBody)),
        responses=documented(400, 404, 413, 415, 422, 429),
    )
    async def tokenize(request: Request) -> list[list[SimpleToken]]:
        """Cut texts into tokens."""
        body = await read_json(request, TokenizeBody)
        _, model_input = _text_model(service, request, body.model)
        _check_any(request, "inputs", body.inputs)
        texts = passages("inputs", body.inputs, settings.max_texts, body.prompt_name)
        _check_size("inputs", texts, "characters", settings.max_text_chars)

        def tokens_of(text: Passage) -> list[SimpleToken]:
            with _blaming(text.field):
                found = model_input.tokens(str(text.content), text.prompt, body.add_special_tokens)
            return [
                SimpleToken(id=t.id, text=t.text, special=t.is_special, start=t.start, stop=t.stop)
                for t in found
            ]

        return await service.read(tokens_of, texts, caller_of(request))

    @router.post(
        "/decode",
        openapi_extra=request_docs(json=inlined(DecodeBody)),
        responses=documented(400, 404, 413, 415, 422, 429),
    )
    async def decode(request: Request) -> list[str]:
        """Turn token ids into text."""
        body = await read_json(request, DecodeBody)
        _, model_input = _text_model(service, request, body.model)
        _check_any(request, "ids", body.ids)
        rows = passages("ids", body.ids, settings.max_texts)
        _check_size("ids", rows, "ids", settings.max_text_chars)

        def text_of(row: Passage) -> str:
            assert not isinstance(row.content, str)
            with _blaming(row.field):
                return model_input.text_of(row.content, body.skip_special_tokens)

        return await service.read(text_of, rows, caller_of(request))

    @router.get("/info", responses=documented(404, 422))
    async def info(request: Request, model: str | None = None) -> TeiInfo:
        """Describe the model and the limits."""
        served, model_input = _text_model(service, request, model)
        pooling = served.manifest.config.get("pooling")
        return TeiInfo(
            model_id=served.name,
            model_sha=served.manifest.files[WEIGHTS].sha256,
            model_dtype="float32",
            served_model_name=served.name,
            model_type=ModelType(embedding=Pooling(pooling=_POOLING.get(str(pooling), pooling))),
            max_concurrent_requests=settings.max_queue,
            max_input_length=model_input.config.max_length,
            max_batch_tokens=settings.max_batch_tokens,
            max_batch_requests=settings.max_batch_size,
            max_client_batch_size=settings.max_texts,
            tokenization_workers=service.num_decode_threads,
            version=version("rheostat"),
            matryoshka_dimensions=allowed_dimensions(served),
        )

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
    _check_any(request, "texts", body.texts)
    asked = RankingRequest(
        Passage("query", body.query, truncate=body.side),
        passages("texts", body.texts, max_texts, truncate=body.side),
        body.model,
        body.budget,
        priority=body.priority,
    )
    ranking, _ = await ranked(service, request, response, tally, asked)
    texts = [asked.query, *asked.documents]
    response.headers.update(
        _timing(ranking.seconds, service.backend_name, texts, ranking.num_tokens)
    )
    score: Callable[[float], float] = float if body.raw_scores else unit_score
    ranks = [TeiRank(index=i, score=score(ranking.scores[i])) for i in ranking.order]
    if body.return_text:
        for rank in ranks:
            rank.text = body.texts[rank.index]
    return ranks


def _text_model(service: Service, request: Request, name: str | None) -> tuple[Served, TextInput]:
    served = service.models_of(caller_of(request)).choose(name, "text")
    try:
        return served, text_input(served.inputs)
    except InvalidInputError as error:
        raise InvalidRequestError(f"model={name}: {error}", "model") from None


def _check_any(request: Request, field: str, given: Sequence[object]) -> None:
    """Refuse an empty list, for which TEI has an error of its own."""
    if isinstance(given, list) and not given:
        request.scope["state"]["form"] = _EMPTY
        raise InvalidRequestError(f"{field} is empty; at least one is needed", field)


def _check_size(field: str, given: Sequence[Passage], what: str, most: int) -> None:
    """Refuse more than can be read without holding up others: nothing of it may be cut."""
    if (found := sum(len(one.content) for one in given)) > most:
        raise InvalidRequestError(
            f"{field} has {found} {what} in all; at most {most} (max_text_chars)", field
        )


@contextmanager
def _blaming(field: str) -> Iterator[None]:
    try:
        yield
    except InvalidInputError as error:
        raise InvalidRequestError(f"{field}: {error}", field) from None


def _timing(
    seconds: Mapping[Stage, float], backend: str, texts: Sequence[Passage], num_tokens: int
) -> dict[str, str]:
    """Return TEI's headers; times are whole milliseconds."""
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
