"""What every protocol of ours says after a request, and how a client's leaving ends one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import orjson
from fastapi import Request, Response

from search.find import Selection
from server.admitted import Answer
from server.choose import Choice
from server.errors import ClientGoneError
from server.http.leaving import watch
from server.observe.metrics import Stage
from server.served import Served

T = TypeVar("T")

JsonObject: TypeAlias = dict[str, Any]
"""What a schema of `server.api.rheostat` describes. Checking our own answers would take longer
than writing them; tests check them."""

RECEIPT_HEADERS = (
    "x-rheostat-subnet",
    "x-rheostat-flops",
    "x-rheostat-fraction",
    "x-rheostat-quality",
)
_MAX_DESCRIBED = 256  # a few kilobytes each


class Written(Response):
    """JSON, with headers that need no check since no client has a say in them."""

    def __init__(self, content: Any, headers: Mapping[str, str] | None = None) -> None:
        self.status_code = 200
        self.background = None
        self.body = orjson.dumps(content)
        self.raw_headers = [
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", b"application/json"),
            *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
        ]


class _Described(NamedTuple):
    """What is told of a subnet each time that it is chosen.

    Attributes:
        scores: By which it is known: no other object has their identity while they are kept here.
        receipt: Its part of a receipt.
        headers: The main figures.
    """

    scores: Mapping[str, object]
    receipt: JsonObject
    headers: Mapping[str, str]


# The search returns the same answers again and again.
_described: OrderedDict[int, _Described] = OrderedDict()


def receipt_of(served: Served, answer: Answer) -> JsonObject:
    """Return the receipt of a run, as `server.api.rheostat.schema.Receipt` describes it."""
    return {
        **plan_receipt(served, answer.selection, answer.adapters),
        "total_flops": answer.flops,
        "shared_flops": round(answer.shared * answer.flops),
        "slimmed": answer.choice.is_slimmed,
        "backend": answer.backend,
        "batch_sizes": answer.batch_sizes,
        "milliseconds": milliseconds(answer.seconds, answer.choice),
    }


def milliseconds(seconds: Mapping[Stage, float], choice: Choice) -> dict[str, float]:
    """Return the time of each stage as receipts give it."""
    taken = {str(stage): 1000 * value for stage, value in seconds.items()}
    taken["predicted"] = 1000 * choice.predicted_s
    return taken


def plan_receipt(served: Served, selection: Selection, adapters: Sequence[str] = ()) -> JsonObject:
    """Return what is known about a subnet, as `PlanReceipt` describes it.

    Args:
        served: The model.
        selection: The subnet.
        adapters: Of the items, each once.
    """
    seconds = selection.seconds
    receipt = _describe(served, selection).receipt.copy()
    receipt["predicted_run_ms"] = None if seconds is None else 1000 * seconds
    if adapters:
        receipt["adapters"] = list(adapters)
        receipt["space"] = served.space_of(selection.subnet, adapters)
    return receipt


def receipt_headers(served: Served, selection: Selection) -> Mapping[str, str]:
    """Return the receipt's main figures as headers, for clients that drop unknown fields."""
    return _describe(served, selection).headers


def _describe(served: Served, selection: Selection) -> _Described:
    """Return what is the same whenever a subnet is chosen for a question, from the last few."""
    key = id(selection.scores)
    known = _described.get(key)
    if known is None:
        receipt = _chosen(served, selection)
        known = _Described(selection.scores, receipt, _figures(receipt))
        if len(_described) >= _MAX_DESCRIBED:
            _described.popitem(last=False)
        _described[key] = known
    return known


def _chosen(served: Served, selection: Selection) -> JsonObject:
    tasks = {
        name: {
            "metric": served.elastic.tasks[name].metric,
            "score": float(score.value),
            "expected": float(score.expected),
            "retention": float(score.retention),
            "retention_stderr": float(score.error),
            "n": int(score.n),
            "stderr": float(score.stderr),
            "measured": bool(score.measured),
        }
        for name, score in selection.scores.items()
    }
    return {
        "model": served.name,
        "version": served.manifest.version,
        "subnet": dict(selection.subnet),
        "adapters": [],
        "space": served.space_of(selection.subnet),
        "macs": selection.cost.macs,
        "flops": selection.cost.flops,
        "bytes": selection.cost.bytes,
        "fraction": float(selection.fraction),
        "quality": float(selection.quality),
        "quality_stderr": float(selection.error),
        "floor": selection.floor,
        "gap": float(selection.gap),
        "preferences": dict(selection.preferences),
        "predicted_run_ms": None,
        "tasks": tasks,
    }


def _figures(receipt: JsonObject) -> dict[str, str]:
    values = (
        " ".join(f"{axis}={value}" for axis, value in receipt["subnet"].items()),
        str(receipt["flops"]),
        f"{receipt['fraction']:.6g}",
        f"{receipt['quality']:.6g}",
    )
    return dict(zip(RECEIPT_HEADERS, values, strict=True))


async def unless_gone(request: Request, answering: Coroutine[Any, Any, T]) -> T:
    """Await an answer, but cancel it once the client has closed the connection.

    Raises:
        ClientGoneError: If it has.
    """
    asking = asyncio.current_task()
    assert asking is not None, "requests are answered in tasks"
    is_gone = False

    def leave() -> None:
        nonlocal is_gone
        is_gone = True
        asking.cancel()

    end_watch = watch(request.scope, request.receive, leave)
    try:
        return await answering
    except asyncio.CancelledError:
        if is_gone and not asking.uncancel():  # else somebody else wants the task to end as well
            raise ClientGoneError("the client closed the connection") from None
        raise
    finally:
        end_watch()
