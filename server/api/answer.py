"""What every protocol of ours says after a request, and how a client's leaving ends one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request

from search.find import Selection
from server.admitted import Answer
from server.api.rheostat.schema import Milliseconds, PlanReceipt, Receipt, TaskReceipt
from server.choose import Choice
from server.errors import ClientGoneError
from server.observe.metrics import Stage
from server.served import Served

T = TypeVar("T")


def receipt_of(served: Served, answer: Answer) -> Receipt:
    """Return the receipt of a run."""
    return Receipt(
        **_chosen(served, answer.selection),
        total_flops=answer.flops,
        shared_flops=round(answer.shared * answer.flops),
        slimmed=answer.choice.is_slimmed,
        backend=answer.backend,
        batch_sizes=answer.batch_sizes,
        milliseconds=milliseconds(answer.seconds, answer.choice),
    )


def milliseconds(seconds: Mapping[Stage, float], choice: Choice) -> Milliseconds:
    """Return the time of each stage as receipts give it."""
    taken = {stage.value: 1000 * value for stage, value in seconds.items()}
    return Milliseconds(**taken, predicted=1000 * choice.predicted_s)


def plan_receipt(served: Served, selection: Selection) -> PlanReceipt:
    """Return what is known about a subnet that was chosen and not run."""
    return PlanReceipt(**_chosen(served, selection))


def _chosen(served: Served, selection: Selection) -> dict[str, Any]:
    tasks = {
        name: TaskReceipt(
            metric=served.elastic.tasks[name].metric,
            score=score.value,
            expected=score.expected,
            retention=score.retention,
            n=score.n,
            stderr=score.stderr,
            measured=score.measured,
        )
        for name, score in selection.scores.items()
    }
    return {
        "model": served.name,
        "version": served.manifest.version,
        "subnet": dict(selection.subnet),
        "macs": selection.cost.macs,
        "flops": selection.cost.flops,
        "fraction": selection.fraction,
        "quality": selection.quality,
        "gap": selection.gap,
        "preferences": dict(selection.preferences),
        "predicted_run_ms": None if selection.seconds is None else 1000 * selection.seconds,
        "tasks": tasks,
    }


RECEIPT_HEADERS = (
    "x-rheostat-subnet",
    "x-rheostat-flops",
    "x-rheostat-fraction",
    "x-rheostat-quality",
)


def receipt_headers(receipt: PlanReceipt) -> dict[str, str]:
    """Return the receipt's main figures as headers, for clients that drop unknown fields."""
    values = (
        " ".join(f"{axis}={value}" for axis, value in receipt.subnet.items()),
        str(receipt.flops),
        f"{receipt.fraction:.6g}",
        f"{receipt.quality:.6g}",
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

    async def watch() -> None:
        nonlocal is_gone
        await _disconnected(request)
        is_gone = True
        asking.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await answering
    except asyncio.CancelledError:
        if is_gone and not asking.uncancel():  # else somebody else wants the task to end as well
            raise ClientGoneError("the client closed the connection") from None
        raise
    finally:
        watching.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
