"""The axis of bits: whether the products of a model are of floats or of int8.

Fewer bits are weights of their own, built when they are wanted (`models.variants`). They save time
and memory, and no MACs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from models.core import EXACT, Cost, Step
from models.nn.quantized import ROUNDED, int8_copy
from models.space import Axis, Value
from models.variants import not_built

AXIS = "bits"
WHOLE, FEW = 32, 8
CHOICES = ((WHOLE,), (FEW, WHOLE))

M = TypeVar("M", bound=nn.Module)


def check_bits(bits: Sequence[int]) -> None:
    """Refuse what a configuration cannot offer; ValueError."""
    if tuple(bits) not in CHOICES:
        raise ValueError(f"bits={list(bits)} must be one of {list(map(list, CHOICES))}")


def axis_of(bits: Sequence[int]) -> tuple[Axis, ...]:
    """Return the axis of bits; none where there is no choice."""
    return (Axis(AXIS, tuple(bits), when="load"),) if len(bits) > 1 else ()


def bits_of(subnet: Mapping[str, Value]) -> int:
    """Return the bits that a subnet names; 32 if it names none."""
    return int(subnet.get(AXIS, WHOLE))


def variant_of(model: M, choices: Mapping[str, Value]) -> M:
    """Return a model with rounded weights; it shares all others.

    Args:
        model: Has an attribute ``bits``, of its weights.
        choices: On the axis of bits.
    """
    made = int8_copy(model)
    made.bits = int(choices[AXIS])  # type: ignore[assignment]
    return made


def step_of(
    wanted: int,
    built: int,
    key: tuple[Hashable, ...],
    run: Callable[..., Any],
    takes: tuple[Step | str, ...],
    cost: Cost,
    timed_as: tuple[Hashable, ...] | None = None,
) -> Step:
    """Return a step whose products have some bits.

    Args:
        wanted: Bits that the subnet names.
        built: Bits of the weights that are there: with others the step refuses to run.
        key: With 32 bits.
        run: With the weights that are there.
        takes: As for `Step`.
        cost: Likewise.
        timed_as: Likewise, with 32 bits.
    """
    if wanted != built:
        run = not_built
    if wanted == WHOLE:
        return Step(key, run, takes, cost, timed_as=timed_as, tolerance=EXACT)
    own = None if timed_as is None else (*timed_as, wanted)
    return Step((*key, wanted), run, takes, cost, timed_as=own, tolerance=ROUNDED)
