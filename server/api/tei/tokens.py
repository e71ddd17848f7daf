"""TEI's `/tokenize`, `/decode` and `/info`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version

from fastapi import APIRouter, Request

from models.checkpoint import WEIGHTS
from models.inputs import InvalidInputError
from models.inputs.text import TextInput, text_input
from server.api.body import read_json
from server.api.dimensions import allowed_dimensions
from server.api.documentation import errors, inlined, request_docs
from server.api.tei.form import TEI, check_any
from server.api.tei.predict import ONE_LABEL
from server.api.tei.schema import (
    DecodeBody,
    Labels,
    ModelType,
    Pooling,
    SimpleToken,
    TeiInfo,
    TokenizeBody,
)
from server.api.texts import passages
from server.clients.caller import caller_of
from server.errors import InvalidRequestError
from server.inputs.sources import Passage
from server.served import Served
from server.service import Service
from server.settings import Settings

_POOLING = {"last": "last_token"}  # where TEI has another word


def routes(service: Service, settings: Settings) -> APIRouter:
    """Return the routes that run no model."""
    router = APIRouter(tags=["TEI"])
    documented = partial(errors, by=[TEI])

    @router.post(
        "/tokenize",
        openapi_extra=request_docs(json=inlined(TokenizeBody)),
        responses=documented(400, 404, 413, 415, 422, 429),
    )
    async def tokenize(request: Request) -> list[list[SimpleToken]]:
        """Cut texts into tokens."""
        body = await read_json(request, TokenizeBody)
        _, model_input = _text_model(service, request, body.model)
        check_any(request, "inputs", body.inputs)
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
        check_any(request, "ids", body.ids)
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
        return TeiInfo(
            model_id=served.name,
            model_sha=served.manifest.files[WEIGHTS].sha256,
            model_dtype="float32",
            served_model_name=served.name,
            model_type=_model_type(served),
            max_concurrent_requests=settings.max_queue,
            max_input_length=model_input.config.max_length,
            max_batch_tokens=settings.max_batch_tokens,
            max_batch_requests=settings.max_batch_size,
            max_client_batch_size=settings.max_texts,
            tokenization_workers=service.num_decode_threads,
            version=version("rheostat"),
            matryoshka_dimensions=allowed_dimensions(served),
        )

    return router


def _model_type(served: Served) -> ModelType:
    """Return what a model is for, as TEI says it."""
    for task in served.elastic.tasks.values():
        if task.kind in ("classes", "score"):
            names = task.labels or (ONE_LABEL,)
            labels = Labels(
                id2label={str(i): name for i, name in enumerate(names)},
                label2id={name: i for i, name in enumerate(names)},
            )
            if task.kind == "score" and served.pair is not None:
                return ModelType(reranker=labels)
            return ModelType(classifier=labels)
    said = served.manifest.config.get("pooling")
    pooling = "+".join(said) if isinstance(said, list) else said
    return ModelType(embedding=Pooling(pooling=_POOLING.get(str(pooling), pooling)))


def _text_model(service: Service, request: Request, name: str | None) -> tuple[Served, TextInput]:
    served = service.models_of(caller_of(request)).choose(name, "text")
    try:
        return served, text_input(served.inputs)
    except InvalidInputError as error:
        raise InvalidRequestError(f"model={name}: {error}", "model") from None


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
