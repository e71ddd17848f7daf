"""A batch of any graphs gives each item what it would get alone, and computes each value once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import Cost, Plan, Step, shared_cost
from models.inputs import Given, Item
from models.nn.ragged import Value
from models.run.chain import Chain
from models.run.execution import never
from models.run.jobs import Done, Job

NAMES = ("a", "b", "c")


class Counter(TorchBackend):
    """Counts, by identity, calls and rows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []
        self.rows: list[bytes] = []

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        result = super().run_chain(chain, inputs, stop)
        for step in chain.steps:
            self.calls.append(step.identity)
            self.rows += [step.identity] * len(result)
        return result


def stack(name: str, values: Sequence[object]) -> Value:
    return torch.stack([value for value in values if isinstance(value, Tensor)])


def items(rng: Random, count: int, names: Sequence[str] = NAMES) -> list[Item]:
    """Return items whose inputs are drawn from a few contents, so that many are equal."""
    found: list[Item] = []
    for _ in range(count):
        drawn = {name: rng.randrange(3) for name in names}
        found.append(
            {
                name: Given(torch.tensor([n + 1.0, 2.0 * n], dtype=torch.float64), n, 0)
                for name, n in drawn.items()
            }
        )
    return found


def mix(key: int) -> Callable[..., Tensor]:
    """Return a function of one value or more, different for each key."""

    def run(*values: Tensor) -> Tensor:
        return sum(
            (torch.sin(value * (i + 1) + key) for i, value in enumerate(values)),
            start=torch.zeros_like(values[0]),
        )

    return run


def random_plan(rng: Random, size: int) -> Plan:
    """Return a plan of functions from a small set, so that plans have many values in common."""
    steps: list[Step] = []
    for _ in range(size):
        pool: list[Step | str] = [*NAMES, *steps]
        takes = tuple(rng.choice(pool) for _ in range(rng.choice((1, 1, 2, 3))))
        key = rng.randrange(2)
        steps.append(Step((key, len(takes)), mix(key), takes, Cost(1 + 3 * key + len(takes))))
    ends = rng.sample(steps, min(len(steps), rng.choice((1, 2, 3))))
    return Plan({f"task{i}": step for i, step in enumerate(ends)})


def alone(plan: Plan, item: Item) -> dict[str, Tensor]:
    values: dict[Step | str, Tensor] = {name: one.value for name, one in item.items()}
    by_identity: dict[bytes, Tensor] = {}
    for step in plan:
        taken = [
            values[one] if isinstance(one, str) else by_identity[one.identity] for one in step.takes
        ]
        by_identity[step.identity] = step.run(*taken)
    return {task: by_identity[step.identity] for task, step in plan.answers.items()}


def run(backend: TorchBackend, jobs: Sequence[Job]) -> list[Done]:
    found: dict[int, Done | Exception] = {}
    for part in backend.execute(jobs, stack):
        for j, done in part:
            assert j not in found, "answered twice"
            found[j] = done
    assert sorted(found) == list(range(len(jobs)))
    answers = [found[j] for j in range(len(jobs))]
    assert all(isinstance(done, Done) for done in answers), answers
    return [done for done in answers if isinstance(done, Done)]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_random_graphs_equal_single_runs_and_compute_each_value_once(seed: int) -> None:
    rng = Random(seed)
    plans = [random_plan(rng, rng.randint(1, 8)) for _ in range(rng.randint(1, 3))]
    own = items(rng, rng.randint(1, 9))
    jobs = [Job(rng.choice(plans), item) for item in own]
    backend = Counter()
    for job, done in zip(jobs, run(backend, jobs), strict=True):
        expected = alone(job.plan, job.item)
        assert done.outputs.keys() == expected.keys()
        for task, value in expected.items():
            torch.testing.assert_close(done.outputs[task], value, atol=1e-9, rtol=0)
    values = {
        (step.identity, tuple(job.item[name].digest for name in step.inputs))
        for job in jobs
        for step in job.plan
    }
    assert len(backend.rows) == len(values)
    assert sorted(backend.calls) == sorted({identity for identity, _ in values})
    contents = [(job.plan, {name: one.digest for name, one in job.item.items()}) for job in jobs]
    computed = sum(done.macs for done in run(TorchBackend(), jobs))
    assert computed == pytest.approx(shared_cost(contents).macs)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_kept_values_start_later_runs_and_nothing_below_them_runs_again(seed: int) -> None:
    rng = Random(seed)
    plan = random_plan(rng, rng.randint(2, 8))
    own = items(rng, rng.randint(1, 6))
    kept = frozenset(
        step.identity for step in rng.sample(plan.steps, rng.randint(1, len(plan.steps)))
    )
    first = run(TorchBackend(), [Job(plan, item, keep=kept) for item in own])
    assert all(done.kept.keys() == kept for done in first)
    backend = Counter()
    mixed = [
        Job(plan, item, known=done.kept) if rng.random() < 0.7 else Job(plan, item)
        for item, done in zip(own, first, strict=True)
    ]
    again = run(backend, mixed)
    for before, after in zip(first, again, strict=True):
        for task, value in before.outputs.items():
            torch.testing.assert_close(after.outputs[task], value, atol=1e-9, rtol=0)
    if all(job.known for job in mixed):
        needed = {step.identity for step in plan.rest(kept)}
        assert set(backend.calls) == needed
        assert not needed & kept
