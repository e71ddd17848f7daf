"""A claim of a family beside its control, over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Claim:
    """One row.

    Attributes:
        system: The family.
        claim: What should be so.
        control: What it is compared with.
        own: Measured, by seed.
        other: Of the control, by seed.
        should: How the first compares with the second where the claim holds.
        tolerance: Of what should be equal; of the others by how much it may be missed.
        macs: Counted, of one item; None where none are.
        bytes: Of weights; likewise.
    """

    system: str
    claim: str
    control: str
    own: Sequence[float]
    other: Sequence[float]
    should: Literal["less", "more", "equal"]
    tolerance: float = 0.0
    macs: int | None = None
    bytes: int | None = None

    @property
    def holds(self) -> int:
        """In how many seeds."""
        pairs = zip(self.own, self.other, strict=True)
        if self.should == "equal":
            return sum(abs(a - b) <= self.tolerance for a, b in pairs)
        sign = -1 if self.should == "less" else 1
        return sum(sign * (a - b) > -self.tolerance for a, b in pairs)
