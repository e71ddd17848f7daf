"""A latency profile at one moment: what a search in time goes by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.quality.table import FloatArray
from search.timing.profile import LatencyProfile, Workload

SHARED = 8  # requests in a batch of which each takes its part; more add little


@dataclass(frozen=True)
class Timing:
    """A profile at one version, for some rows: what a search in time goes by.

    Attributes:
        profile: Measured.
        rows: Items of the request, rounded up to a power of two, so that few differ.
        version: Of the profile's corrections.
    """

    profile: LatencyProfile
    rows: int
    version: int

    @classmethod
    def of(cls, profile: LatencyProfile, rows: int) -> Timing:
        """Return the timing of now for a number of items."""
        return cls(profile, 1 << (rows - 1).bit_length(), profile.corrections.version)

    @property
    def shared(self) -> Timing:
        """The timing of a full batch, of which each item takes its part."""
        return Timing(self.profile, SHARED * self.rows, self.version)

    @property
    def calibrated(self) -> Timing:
        """The timing of the same batch by what was measured at first."""
        return Timing(self.profile.calibrated, self.rows, 0)

    def microseconds(self, numbers: NDArray[np.int64], lengths: FloatArray) -> FloatArray:
        """Predict functions.

        Args:
            numbers: Of their curves.
            lengths: Tokens of the sequences that each depends on, together; shape [functions].

        Returns:
            Shape [functions].
        """
        return 1e6 * self.profile.times(numbers, Workload(self.rows, lengths))
