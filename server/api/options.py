"""What may stand in the headers of a request, in any protocol: budget, priority, read timeout.

`ReadOptions` reads them for every path alike. A path that runs no model can use none of ours, and
refuses them: a budget that nobody heeds would be taken for one that holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from fastapi import Request
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from models.space import Value
from search.budget import Budget
from search.quality.sides import SIDES, Side
from server.api.adapters import MAX_ADAPTER
from server.api.rheostat.schema import MAX_PRIORITY, BudgetBody
from server.choose import Question
from server.clients.caller import Caller
from server.errors import InvalidRequestError, shown
from server.http.routed import route_path

PREFIX = "x-rheostat-"
PRIORITY = f"{PREFIX}priority"
SIDE = f"{PREFIX}side"
ADAPTER = f"{PREFIX}adapter"
PREFERENCES = f"{PREFIX}preferences"
READ_TIMEOUT = "x-stainless-read-timeout"  # sent unasked by SDKs such as OpenAI's
LIMITS = {PREFIX + name.replace("_", "-"): name for name in BudgetBody.model_fields}

_OURS = PREFIX.removesuffix("-")
_READ = (_OURS.encode(), READ_TIMEOUT.encode())
_OTHERS = (PRIORITY, SIDE, PREFERENCES, ADAPTER)
_MAX_WEIGHTS = 100  # tasks
_ANY = Budget()
_FLAGS = {"true": True, "false": False}
# Python's own conversion takes more: "1_000", "infinity".
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)

_RUN_MODELS = frozenset(
    {
        "/v1/infer",
        "/v1/plan",
        "/v1/embeddings",
        "/embeddings",
        "/v1/similarity",
        "/v1/classify",
        "/v1/rerank",
        "/v1/neighbors",
        "/v2/rerank",
        "/rerank",
        "/",
        "/embed",
        "/similarity",
        "/predict",
    }
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the headers of a request say.

    Attributes:
        limits: Of the budget, by field.
        priority: As the body's field of the same name; None if it is not there.
        timeout_s: After how many seconds the client stops waiting; None if it does not say.
        side: As the body's field of the same name; None if it is not there.
        preferences: Likewise.
        adapter: Likewise.
    """

    limits: Mapping[str, float | bool] = field(default_factory=lambda: MappingProxyType({}))
    priority: int | None = None
    timeout_s: float | None = None
    side: Side | None = None
    preferences: Mapping[str, float] | None = None
    adapter: str | None = None

    def question(
        self,
        caller: Caller,
        budget: BudgetBody | None,
        *,
        tasks: Sequence[str] | None = None,
        preferences: Mapping[str, float] | None = None,
        fixed: Mapping[str, Value] | None = None,
        priority: int | None = None,
        timeout_s: float | None = None,
        raw: bool = False,
        side: Side | None = None,
        adapter: str | None = None,
    ) -> Question:
        """Return what a request asks; a value in its body goes before the same one in a header.

        Args:
            caller: Who asks.
            budget: Of the body.
            tasks: As in `Question`.
            preferences: Likewise.
            fixed: Likewise.
            priority: Of the body.
            timeout_s: What the protocol itself says of it; the shorter time holds.
            raw: As in `Question`.
            side: Likewise.
            adapter: Likewise.
        """
        limits = {} if budget is None else budget.model_dump(exclude_unset=True)
        if self.limits:
            limits = {**self.limits, **limits}
        times = [s for s in (self.timeout_s, timeout_s) if s is not None]
        return Question(
            tasks=tasks,
            preferences=self.preferences if preferences is None else preferences,
            budget=Budget(**limits) if limits else _ANY,
            fixed=fixed or {},
            caller=caller,
            priority=self.priority if priority is None else priority,
            timeout_s=min(times, default=None),
            raw=raw,
            side=side or self.side,
            adapter=self.adapter if adapter is None else adapter,
        )


NONE = Options()


def read_options(headers: Iterable[tuple[str, str]], runs_model: bool) -> Options:
    """Read the headers, or the metadata, of a request.

    Args:
        headers: Names in lower case, and values; of no interest but for those read here.
        runs_model: Whether what is asked can use our own.

    Raises:
        InvalidRequestError: If one of ours is not known, cannot be used here, is given twice or has
            a value that makes no sense; or if the read timeout is none.
    """
    given: dict[str, str] = {}
    for name, value in headers:
        if not (name.startswith(_OURS) or name == READ_TIMEOUT):
            continue
        if name in given:
            raise InvalidRequestError(f"header {shown(name)} is given more than once", name[:80])
        given[name] = value
    if not given:
        return NONE
    limits: dict[str, float | bool] = {}
    priority = timeout_s = side = preferences = adapter = None
    for name, value in given.items():
        if name == READ_TIMEOUT:
            timeout_s = _seconds(value)
        elif name not in LIMITS and name not in _OTHERS:
            allowed = ", ".join([*LIMITS, *_OTHERS])
            raise InvalidRequestError(f"header {shown(name)} is not known; one of {allowed}")
        elif not runs_model:
            raise InvalidRequestError(
                f"header {name}={shown(value)} cannot be used here: no model is run", name
            )
        elif name == PRIORITY:
            priority = _class(value)
        elif name == SIDE:
            side = _side(value)
        elif name == PREFERENCES:
            preferences = _weights(value)
        elif name == ADAPTER:
            adapter = _adapter(value)
        else:
            limits[LIMITS[name]] = _limit(name, value)
    return Options(limits, priority, timeout_s, side, preferences, adapter)


class ReadOptions:
    """Put a request's options into its scope's state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection."""
        if scope["type"] == "http":
            given = [pair for pair in scope["headers"] if pair[0].startswith(_READ)]
            options = NONE
            if given:  # few clients send any
                headers = ((k.decode("latin-1"), v.decode("latin-1")) for k, v in given)
                options = read_options(headers, runs_model(route_path(scope)))
            scope["state"]["options"] = options
        return self._app(scope, receive, send)


def options_of(request: Request) -> Options:
    """Return what the headers of a request say."""
    options: Options = request.scope["state"]["options"]
    return options


def runs_model(path: str) -> bool:
    """Return whether what answers at a path runs a model, or says which subnet would run."""
    is_inference = path.startswith("/v2/models/") and path.endswith("/infer")
    return path in _RUN_MODELS or is_inference


def _limit(header: str, value: str) -> float | bool:
    name = LIMITS[header]
    is_flag = name == "strict"
    try:
        limit = _FLAGS[value] if is_flag else _number(value)
        BudgetBody.model_validate({name: limit})
    except (KeyError, ValueError) as error:
        rule = "true or false" if is_flag else "a positive number"
        if isinstance(error, ValidationError):  # a number, but none that is allowed
            found = error.errors()[0]["msg"].removeprefix("Input should be ")
            rule = f"a positive number: {found}"
        raise InvalidRequestError(
            f"header {header}={shown(value)} must be {rule}", f"budget.{name}"
        ) from None
    return limit


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a number")
    return float(text)


def _class(value: str) -> int:
    if not _WHOLE.fullmatch(value) or int(value) > MAX_PRIORITY:
        raise InvalidRequestError(
            f"header {PRIORITY}={shown(value)} must be a whole number, 0 to {MAX_PRIORITY}",
            "priority",
        )
    return int(value)


def _side(value: str) -> Side:
    for side in SIDES:
        if value == side:
            return side
    raise InvalidRequestError(f"header {SIDE}={shown(value)} must be one of {list(SIDES)}", "side")


def _adapter(value: str) -> str:
    if len(value) > MAX_ADAPTER:
        raise InvalidRequestError(
            f"header {ADAPTER}={shown(value)} must have at most {MAX_ADAPTER} characters",
            "adapter",
        )
    return value


def _weights(value: str) -> dict[str, float]:
    """Read ``task=weight,task=weight``."""
    found: dict[str, float] = {}
    for part in value.split(","):
        task, _, weight = part.strip().rpartition("=")
        is_wrong = not task or task in found or len(found) == _MAX_WEIGHTS
        if is_wrong or not _NUMBER.fullmatch(weight):
            raise InvalidRequestError(
                f"header {PREFERENCES}={shown(value)} must be task=weight,task=weight: each task "
                f"once, {_MAX_WEIGHTS} at most, weights of 0 or more",
                "preferences",
            )
        found[task] = _number(weight)
    return found


def _seconds(value: str) -> float:
    seconds = _number(value) if _NUMBER.fullmatch(value) else math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidRequestError(
            f"header {READ_TIMEOUT}={shown(value)} must be a positive number of seconds",
            READ_TIMEOUT,
        )
    return seconds
