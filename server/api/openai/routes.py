"""`POST /v1/embeddings`: OpenAI's protocol, with our budget beside its own fields.

The budget comes in the body (the SDK's ``extra_body``) or in ``x-rheostat-*`` headers; a limit in
the body goes before the same one in a header. The receipt goes back in both.
"""

from __future__ import annotations

from binascii import b2a_base64
from itertools import islice

import numpy as np
from fastapi import APIRouter, Request
from torch import Tensor

from server.api.answer import Written, receipt_headers, receipt_of, unless_gone
from server.api.body import read_json
from server.api.dimensions import fixed_dimensions
from server.api.documentation import errors, inlined, request_docs
from server.api.openai.form import OPENAI, form
from server.api.options import options_of
from server.api.rheostat.text_schema import EmbeddingsAnswer, EmbeddingsBody
from server.api.sides import side_prompt
from server.api.texts import passages
from server.clients.caller import caller_of
from server.inputs.sources import Passage
from server.service import Service

PATHS = ("/v1/embeddings", "/embeddings")
FORMS = dict.fromkeys(PATHS, form)
_STATUSES = (400, 404, 413, 415, 429, 504)


def routes(service: Service, max_texts: int) -> APIRouter:
    """Return the routes of this protocol.

    Args:
        service: Answers.
        max_texts: Most texts in one request.
    """
    router = APIRouter(tags=["embeddings"])

    async def embeddings(request: Request) -> Written:
        """Embed texts with the best subnet that the budget allows."""
        with service.metrics.request() as tally:
            body = await read_json(request, EmbeddingsBody)
            caller = caller_of(request)
            served = service.models_of(caller).choose(body.model, "text", gives=("embedding",))
            tally.model = served.name
            texts = _passages(body, max_texts, side_prompt(served, body.side, body.prompt))
            question = options_of(request).question(
                caller,
                body.budget,
                preferences=body.preferences,
                fixed=fixed_dimensions(served, body.dimensions or None),
                priority=body.priority,
                raw=not body.normalize,
                side=body.side,
                adapter=body.adapter,
            )
            items = served.named("text", texts)
            answer = await unless_gone(request, service.infer(served, question, items))
        form, num_tokens = body.encoding_format, sum(answer.num_tokens)
        content = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": _encoded(vector, form)}
                for i, outputs in enumerate(answer.outputs)
                for vector in islice(outputs.values(), 1)  # one answers every task
            ],
            "model": served.name,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            "receipt": receipt_of(served, answer),
        }
        return Written(content, receipt_headers(served, answer.selection))

    for path in PATHS:
        router.add_api_route(
            path,
            embeddings,
            methods=["POST"],
            response_model=EmbeddingsAnswer,
            openapi_extra=request_docs(json=inlined(EmbeddingsBody)),
            responses=errors(*_STATUSES, by=[OPENAI]),
        )
    return router


def _passages(body: EmbeddingsBody, max_texts: int, prompt: str | None) -> list[Passage]:
    side, most = body.truncate, body.truncate_prompt_tokens
    if most is not None:
        side = side or "right"
        most = None if most == -1 else most
    return passages("input", body.input, max_texts, prompt, side, most)


def _encoded(vector: Tensor, form: str) -> list[float] | str:
    if form == "float":
        return vector.tolist()
    little_endian = np.asarray(vector.float().numpy(), dtype="<f4")
    return b2a_base64(little_endian.data, newline=False).decode()
