"""Whether two ways to compute a value agree."""

from __future__ import annotations

import torch
from torch import Tensor

from models.core import EXACT

FLOATS = 1e-4  # of each number, absolute and relative: what the order of sums may make


def check_agreement(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare two results, shape [rows, ...].

    Args:
        found: By one back end.
        expected: By another.
        tolerance: As for `models.core.Step`, of all steps together.

    Raises:
        AssertionError: If they differ by more, or one is no number.
    """
    if tolerance == EXACT:
        torch.testing.assert_close(found, expected, atol=FLOATS, rtol=FLOATS)
        return
    if found.shape != expected.shape:
        raise AssertionError(f"shape {list(found.shape)}, expected {list(expected.shape)}")
    error, length = (one.reshape(len(one), -1).norm(dim=1) for one in (found - expected, expected))
    if expected.ndim == 1:  # a number may be what is left of larger ones
        length = length.clamp_min(1.0)
    if not bool((error <= tolerance * length + FLOATS).all()):  # also not with a NaN
        worst = float((error / length).max())
        raise AssertionError(f"rows differ by up to {worst:.3g} of their length, not {tolerance:g}")
