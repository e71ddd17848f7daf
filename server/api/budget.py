"""Where a request's budget may stand: in the body, in headers, or in both."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from search.budget import Budget
from server.api.schema import BudgetBody
from server.errors import InvalidRequestError, shown

PREFIX = "x-rheostat-"


def merged_budget(body: BudgetBody | None, headers: Mapping[str, str]) -> Budget:
    """Return all limits of a request; one in the body goes before the same one in a header.

    Args:
        body: Of the request; None if it has none.
        headers: Of the request; ``x-rheostat-min-quality`` is the limit ``min_quality``.

    Raises:
        InvalidRequestError: If a header with our prefix is no limit, or its value no number.
    """
    given: dict[str, float] = {}
    for header, value in headers.items():
        if not header.startswith(PREFIX):
            continue
        name = header.removeprefix(PREFIX).replace("-", "_")
        if name not in BudgetBody.model_fields:
            allowed = ", ".join(PREFIX + f.replace("_", "-") for f in BudgetBody.model_fields)
            raise InvalidRequestError(f"header {shown(header)} is not known; one of {allowed}")
        try:
            given[name] = float(value)
            BudgetBody(**{name: given[name]})
        except (ValueError, ValidationError):
            raise InvalidRequestError(
                f"header {header}={shown(value)} must be a positive number", f"budget.{name}"
            ) from None
    if body is not None:
        given |= body.model_dump(exclude_none=True)
    return Budget(**given)
