"""What one load came to, counted over all requests that were sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.trace.replay import Outcome

_OK, _REFUSED, _EXPIRED = 200, 429, 504
_SHOWN = 300  # bytes of an answer


@dataclass(frozen=True)
class Tally:
    """Every request is one of: met, late, refused, expired, other, lost.

    Attributes:
        sent: All requests.
        met: Answered within the objective.
        late: Answered after it.
        refused: Turned away at once (429).
        expired: Given up by the server (504).
        other: Answered with another status.
        lost: Not answered.
        attainment: Share of all that were met.
        quality: Mean of those met; None if none was.
        goodput: Sum of the quality of those met, by all requests.
        slimmed: Share of those met that the server had made smaller than they asked for.
        p50_ms: Latency of those answered, late ones too; None if there are none. Likewise p99_ms.
        queue_ms: Median of what the server says they waited.
        run_ms: Median of what it says their batch ran.
        predicted: Median of the server's predicted by its actual total; None where it says neither.
        lag_p99_ms: How late the client itself was with a request.
        example: Status and body of the first of the others, cut; None if there are none.
    """

    sent: int
    met: int
    late: int
    refused: int
    expired: int
    other: int
    lost: int
    attainment: float
    quality: float | None
    goodput: float
    slimmed: float | None
    p50_ms: float | None
    p99_ms: float | None
    queue_ms: float | None
    run_ms: float | None
    predicted: float | None
    lag_p99_ms: float
    example: str | None


def tally(outcomes: Sequence[Outcome], slo_s: float) -> Tally:
    """Count what became of the requests.

    Args:
        outcomes: Of all that were sent, at least one.
        slo_s: Longest latency that counts as met.

    Raises:
        ValueError: If an answer carries no receipt.
    """
    answered = [one for one in outcomes if one.status == _OK]
    receipts = [_receipt(one) for one in answered]
    pairs = list(zip(answered, receipts, strict=True))
    met = [receipt for one, receipt in pairs if one.latency_s <= slo_s]
    qualities = [float(receipt["quality"]) for receipt in met]
    counts = Counter(one.status for one in outcomes)
    others = [one for one in outcomes if one.status not in (_OK, _REFUSED, _EXPIRED, None)]
    latencies = [1000 * one.latency_s for one in answered]
    times = [receipt["milliseconds"] for receipt in receipts]
    return Tally(
        sent=len(outcomes),
        met=len(met),
        late=len(answered) - len(met),
        refused=counts[_REFUSED],
        expired=counts[_EXPIRED],
        other=len(others),
        lost=counts[None],
        attainment=len(met) / len(outcomes),
        quality=_mean(qualities),
        goodput=sum(qualities) / len(outcomes),
        slimmed=_mean([bool(receipt["slimmed"]) for receipt in met if "slimmed" in receipt]),
        p50_ms=_percentile(latencies, 50),
        p99_ms=_percentile(latencies, 99),
        queue_ms=_percentile([one["queue"] for one in times], 50),
        run_ms=_percentile([one["run"] for one in times], 50),
        predicted=_percentile(
            [one["predicted"] / one["total"] for one in times if one.get("predicted")], 50
        ),
        lag_p99_ms=1000 * float(np.percentile([one.lag_s for one in outcomes], 99)),
        example=f"{others[0].status} {others[0].content[:_SHOWN]!r}" if others else None,
    )


def _receipt(outcome: Outcome) -> dict[str, Any]:
    try:
        receipt: dict[str, Any] = json.loads(outcome.content)["receipt"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"an answer has no receipt: {outcome.content[:200]!r}") from None
    return receipt


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
