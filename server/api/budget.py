"""Where a request's budget may stand: in the body, in headers, or in both."""

from __future__ import annotations

import math
from collections.abc import Mapping

from search.budget import Budget
from server.api.schema import BudgetBody
from server.errors import InvalidRequestError, shown

PREFIX = "x-rheostat-"
_READ_TIMEOUT = "x-stainless-read-timeout"  # sent unasked by SDKs such as OpenAI's
_FLAGS = {"true": True, "false": False}


def merged_budget(body: BudgetBody | None, headers: Mapping[str, str]) -> Budget:
    """Return all limits of a request; one in the body goes before the same one in a header.

    Args:
        body: Of the request; None if it has none.
        headers: Of the request; ``x-rheostat-min-quality`` is the limit ``min_quality``.

    Raises:
        InvalidRequestError: If a header with our prefix is no limit, or its value no number.
    """
    given: dict[str, float | bool] = {}
    for header, value in headers.items():
        if not header.startswith(PREFIX):
            continue
        name = header.removeprefix(PREFIX).replace("-", "_")
        if name not in BudgetBody.model_fields:
            allowed = ", ".join(PREFIX + f.replace("_", "-") for f in BudgetBody.model_fields)
            raise InvalidRequestError(f"header {shown(header)} is not known; one of {allowed}")
        is_flag = name == "strict"
        try:
            given[name] = _FLAGS[value] if is_flag else float(value)
            BudgetBody.model_validate({name: given[name]})
        except (KeyError, ValueError):
            rule = "true or false" if is_flag else "a positive number"
            raise InvalidRequestError(
                f"header {header}={shown(value)} must be {rule}", f"budget.{name}"
            ) from None
    if body is not None:
        given |= body.model_dump(exclude_unset=True, exclude_none=True)
    return Budget(**given)  # type: ignore[arg-type]  # checked by BudgetBody


def timeout_s(headers: Mapping[str, str]) -> float | None:
    """Return after how many seconds the client will have stopped waiting; None if it does not say.

    Raises:
        InvalidRequestError: If it says something else.
    """
    given = headers.get(_READ_TIMEOUT)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidRequestError(
            f"header {_READ_TIMEOUT}={shown(given)} must be a positive number of seconds",
            _READ_TIMEOUT,
        )
    return seconds
