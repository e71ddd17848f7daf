"""What a request may spend, and what its answer must at least be worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

_LIMITS = ("flops", "macs", "fraction", "min_quality", "latency_ms", "bytes")


class InfeasibleBudgetError(ValueError):
    """No subnet meets the budget. The message says the cheapest or best figure that would do.

    Attributes:
        field: The part of the budget that cannot be met.
        feasible: The nearest value of that field that can be met.
    """

    def __init__(self, message: str, field: str, feasible: float) -> None:
        super().__init__(message)
        self.field = field
        self.feasible = feasible


class TooSlowError(InfeasibleBudgetError):
    """No subnet is fast enough. Of what a latency is for, the search knows running alone.

    Attributes:
        latency_ms: That was too little.
        fastest_s: What running takes at least, as predicted.
        suffix: What else the fastest subnet keeps, for the message.
        cheapest_s: What the subnet takes that has fewest MACs. The least of many predictions is the
            luckiest one; this one was not picked for its time.
    """

    def __init__(
        self, latency_ms: float, fastest_s: float, suffix: str = "", cheapest_s: float = 0.0
    ) -> None:
        feasible = math.ceil(1e4 * fastest_s) / 10
        super().__init__(
            f"budget.latency_ms={latency_ms:g} is too small; the fastest subnet{suffix} is "
            f"predicted to need {feasible:g}",
            "latency_ms",
            feasible,
        )
        self.latency_ms, self.fastest_s, self.suffix = latency_ms, fastest_s, suffix
        self.cheapest_s = max(fastest_s, cheapest_s)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on one request; all that are set hold at once.

    The ceilings ``flops``, ``macs`` and ``fraction`` limit compute for one input, ``latency_ms``
    the time of the whole request, ``bytes`` the weights. Within them the search takes the best
    subnet; with ``min_quality`` it takes the cheapest that keeps that quality.

    Attributes:
        flops: Floating-point operations, 2 x MACs.
        macs: Multiply-accumulates.
        fraction: Part of the MACs of the largest subnet for the same tasks, 0..1.
        min_quality: Least preference-weighted mean of the tasks' retention (score over the largest
            subnet's score). 1 is the largest subnet's quality; a subnet may exceed it.
        latency_ms: Milliseconds from the request read to its answer ready, waiting included.
        bytes: Of the weights that the subnet computes with, in the bits that they have in memory:
            what a model of this subnet alone would hold.
        strict: True: the answer is never made smaller because others wait; False: it may be. None:
            it may be if a limit is set, since who sets one has said what may be given up.

    Raises:
        ValueError: If a limit is not a finite positive number, or fraction exceeds 1.
    """

    flops: float | None = None
    macs: float | None = None
    fraction: float | None = None
    min_quality: float | None = None
    latency_ms: float | None = None
    bytes: float | None = None
    strict: bool | None = None

    def __post_init__(self) -> None:
        """Refuse limits that no reading makes sense of."""
        for field in _LIMITS:
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"budget.{field}={value} must be a finite number above 0")
        if self.fraction is not None and self.fraction > 1:
            raise ValueError(f"budget.fraction={self.fraction} must be at most 1")

    @property
    def names_limit(self) -> bool:
        """Whether anything is limited."""
        return not (  # asked several times of each request
            self.flops is None
            and self.macs is None
            and self.fraction is None
            and self.min_quality is None
            and self.latency_ms is None
            and self.bytes is None
        )

    def max_macs(self, largest_macs: int) -> tuple[float, str | None]:
        """Return the strictest ceiling in MACs and the field it comes from.

        Args:
            largest_macs: MACs of the largest subnet for the same tasks.

        Returns:
            (infinity, None) if no ceiling is set.
        """
        ceilings = {
            "flops": None if self.flops is None else self.flops / 2,
            "macs": self.macs,
            # MACs are whole: a fraction that was computed from some must admit them again.
            "fraction": (
                None if self.fraction is None else math.floor(self.fraction * largest_macs + 1e-6)
            ),
        }
        return min(
            ((macs, field) for field, macs in ceilings.items() if macs is not None),
            default=(math.inf, None),
        )


def too_small(
    field: str, budget: Budget, least: int, largest_macs: int, suffix: str = ""
) -> InfeasibleBudgetError:
    """Return the error that says what would be enough.

    Args:
        field: The ceiling that is too low.
        budget: That it belongs to.
        least: What would be enough, in MACs; of ``bytes`` in bytes.
        largest_macs: MACs of the largest subnet for the same tasks.
        suffix: What else the cheapest subnet keeps, for the message.
    """
    feasible = {
        "flops": 2 * least,
        "macs": least,
        "fraction": least / largest_macs,
        "bytes": least,
    }[field]
    # Rounded up, so that the figure given is itself accepted.
    shown = f"{feasible:,}" if field != "fraction" else f"{math.ceil(feasible * 1e6) / 1e6:.6f}"
    return InfeasibleBudgetError(
        f"budget.{field}={getattr(budget, field):g} is too small; "
        f"the cheapest subnet{suffix} needs {shown}",
        field,
        feasible,
    )
