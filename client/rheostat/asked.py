"""What may be asked beside the inputs, with the names of the server's JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits for each input, the latency for all together; all that are given hold at once.

    The server checks them.

    Attributes:
        flops: Floating-point operations, 2 x MACs.
        macs: Multiply-accumulates.
        fraction: Of the MACs of the largest subnet for the same tasks, above 0 and at most 1.
        min_quality: Keep at least this preference-weighted mean retention, as cheaply as possible.
            1 is the largest subnet.
        latency_ms: Milliseconds of the whole request, waiting included. The best subnet that is
            predicted to keep it runs; past it, what has not run yet is given up.
        bytes: Of the weights that the subnet computes with: what a model of it alone would hold.
        strict: True: never run a smaller subnet because others wait; refuse instead. False: load
            may make the subnet smaller. None: False with a limit, True without one.
    """

    flops: float | None = None
    macs: float | None = None
    fraction: float | None = None
    min_quality: float | None = None
    latency_ms: float | None = None
    bytes: float | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """Score all documents at a shallow exit first, then only the best at the chosen one.

    Attributes:
        depth: Exit layer of the first pass.
        keep: Documents that go on to the chosen depth.
    """

    depth: int
    keep: int
