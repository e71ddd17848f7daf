"""How OpenAI's protocol spells errors."""

from __future__ import annotations

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from server.api.documentation import Spelling
from server.errors import ClientError, RheostatError, UnknownModelError


class OpenAIErrorFields(BaseModel):
    """What is wrong: the four fields that OpenAI's clients expect, and ours."""

    message: str
    type: str
    param: str | None = Field(description="For example `budget.flops` or `input[3]`.")
    code: str | None
    request_id: str
    feasible: float | None = Field(
        default=None, description="With `infeasible_budget`: the nearest value that can be met."
    )
    details: list[dict[str, str | None]] | None = Field(
        default=None, description="With `invalid_request`: every fault found."
    )


class OpenAIError(BaseModel):
    """Body of every error."""

    error: OpenAIErrorFields


def form(error: RheostatError, request_id: str) -> Response:
    """Spell an error as OpenAI does; what is wrong with the request is 400."""
    status = 400 if error.status == 422 else error.status
    kind = "invalid_request_error" if isinstance(error, ClientError) else "server_error"
    code = "model_not_found" if isinstance(error, UnknownModelError) else error.error_type
    body = {
        "message": error.message,
        "type": "rate_limit_error" if status == 429 else kind,
        "param": error.field,
        "code": code,
        "request_id": request_id,
        **error.extra(),
    }
    return JSONResponse({"error": body}, status_code=status, headers=dict(error.headers))


OPENAI = Spelling(form, OpenAIError)
