"""From a field of any protocol to the texts it holds."""

from __future__ import annotations

from collections.abc import Sequence

from models.inputs.content import Side
from server.api.body import check_count
from server.errors import InvalidRequestError
from server.inputs.sources import Passage

Content = str | Sequence[int]


def passages(
    field: str,
    given: Content | Sequence[Content],
    max_texts: int,
    prompt: str | None = None,
    truncate: Side | None = None,
    max_tokens: int | None = None,
) -> list[Passage]:
    """Return what a field holds: a text, its token ids, or several of either.

    Args:
        field: Its name, for errors.
        given: Its value.
        max_texts: Most texts in one request.
        prompt: Name of a template; None for the model's default.
        truncate: Which end to cut where a text is too long; None to refuse it.
        max_tokens: What is too long; None for what the model takes.

    Raises:
        InvalidRequestError: If there are none, or too many.
    """
    many: Sequence[Content]
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        many, fields = [given], [field]  # type: ignore[list-item]  # a text or its ids
    else:
        many, fields = given, [f"{field}[{i}]" for i in range(len(given))]  # type: ignore[assignment]
    if not many:
        raise InvalidRequestError(f"{field} is empty; at least one text is needed", field)
    check_count(field, len(many), max_texts, "max_texts")
    return [
        Passage(where, content, prompt, truncate, max_tokens)
        for where, content in zip(fields, many, strict=True)
    ]
