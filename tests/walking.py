"""Plans run step by step, as directly as can be, and batches: the one to compare the other with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from models.core import Plan
from models.nn.ragged import Value
from models.run.backend import Backend
from models.run.jobs import Done, Job
from models.run.operands import Collate


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


def results_of(
    backend: Backend, jobs: Sequence[Job], collate: Collate
) -> dict[int, Done | Exception]:
    """Return what each job gave; none may be answered twice."""
    found: dict[int, Done | Exception] = {}
    for answered in backend.execute(jobs, collate):
        for j, done in answered:
            assert j not in found, "answered twice"
            found[j] = done
    return found


def done_of(backend: Backend, jobs: Sequence[Job], collate: Collate) -> list[Done]:
    """Return what each job gave; none may have failed."""
    found = results_of(backend, jobs, collate)
    assert sorted(found) == list(range(len(jobs)))
    done = [one for _, one in sorted(found.items()) if isinstance(one, Done)]
    assert len(done) == len(jobs), found
    return done
