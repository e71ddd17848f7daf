"""Plans run step by step, as directly as can be: what batches and back ends are compared with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from models.core import Plan
from models.nn.ragged import Value


def values_of(plan: Plan, inputs: Mapping[str, Value]) -> dict[bytes, Value]:
    """Return every value of a plan, by identity."""
    found: dict[bytes, Value] = {}
    for step in plan:
        taken = (inputs[one] if isinstance(one, str) else found[one.identity] for one in step.takes)
        found[step.identity] = step.run(*taken)
    return found


def answers_of(plan: Plan, inputs: Mapping[str, Value]) -> dict[str, Tensor]:
    """Return the answers of a plan, by task."""
    values = values_of(plan, inputs)
    found: dict[str, Tensor] = {}
    for task, step in plan.answers.items():
        value = values[step.identity]
        assert isinstance(value, Tensor)
        found[task] = value
    return found
