"""A batch of any graphs gives each item what it would get alone, and computes each value once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.backends.cuda.graphs import GraphBackend, RecordingPolicy
from models.backends.torch import TorchBackend
from models.core import Cost, Plan, Step, shared_cost
from models.inputs import Given, Item
from models.nn.ragged import Ragged, Value
from models.run.chain import Chain
from models.run.execution import never
from models.run.jobs import Done, Job
from tests.models.backends.cuda.tape import Tape
from tests.walking import answers_of, done_of, results_of

ROWS = ("a", "b")
PACKED = ("p", "q")


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


def collate(name: str, values: Sequence[object]) -> Value:
    """Stack rows, and pack what has a length."""
    rows = [value for value in values if isinstance(value, Tensor)]
    return Ragged.pack(rows) if name in PACKED else torch.stack(rows)


def items(rng: Random, count: int) -> list[Item]:
    """Return items whose inputs are drawn from a few contents, so that many are equal."""
    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    contents: dict[str, list[Given]] = {}
    for name in (*ROWS, *PACKED):
        lengths = [rng.randint(1, 4) if name in PACKED else 0 for _ in range(3)]
        contents[name] = [
            Given(torch.randn((n, 2) if n else 2, generator=generator, dtype=torch.float64), i, n)
            for i, n in enumerate(lengths)
        ]
    return [{name: rng.choice(of) for name, of in contents.items()} for _ in range(count)]


def mix(key: int) -> Callable[..., Value]:
    """Return a function of one value or more, different for each key; packed as the first is.

    Packed values of the same layout are added token by token; of another one each row's mean comes
    in. So what runs must keep which values have the same tokens.
    """

    def run(*values: Value) -> Value:
        first, *others = values
        if isinstance(first, Ragged):
            layout = first.layout
            total = torch.sin(first.values + key) + layout.mean(first.values)[layout.rows]
        else:
            total = torch.sin(first + key)
        for i, other in enumerate(others):
            row = other.layout.mean(other.values) if isinstance(other, Ragged) else other
            row = torch.sin(row * (i + 2) + key)
            if not isinstance(first, Ragged):
                total = total + row
            elif isinstance(other, Ragged) and other.layout is first.layout:
                total = total + torch.sin(other.values * (i + 2) + key)
            else:
                total = total + row[first.layout.rows]
        return first.replace(total) if isinstance(first, Ragged) else total

    return run


def pooled(value: Value) -> Tensor:
    return value.layout.mean(value.values) if isinstance(value, Ragged) else 2 * value


def random_plan(rng: Random, size: int, failing: int | None = None) -> Plan:
    """Return a plan of functions from a small set, so that plans have many values in common.

    Args:
        rng: Draws.
        size: Steps, without those that answer.
        failing: Key of the functions that raise.
    """
    steps: list[Step] = []
    for _ in range(size):
        pool: list[Step | str] = [*ROWS, *PACKED, *steps]
        takes = tuple(rng.choice(pool) for _ in range(rng.choice((1, 1, 2, 3))))
        key = rng.randrange(3 if failing is not None else 2)
        run = broken if key == failing else mix(key)
        steps.append(Step((key, len(takes)), run, takes, Cost(1 + 3 * key + len(takes))))
    ends = rng.sample(steps, min(len(steps), rng.choice((1, 2, 3))))
    answers = [Step("pooled", pooled, (step,), Cost(1)) for step in ends]
    return Plan({f"task{i}": step for i, step in enumerate(answers)})


class BrokenError(Exception):
    """What a failing step raises."""


def broken(*values: Value) -> Value:
    raise BrokenError


def alone(plan: Plan, item: Item) -> dict[str, Tensor]:
    """Return the answers for one item, step by step."""
    return answers_of(plan, {name: collate(name, [one.value]) for name, one in item.items()})


def check(done: Done, expected: dict[str, Tensor]) -> None:
    assert done.outputs.keys() == expected.keys()
    for task, value in expected.items():
        torch.testing.assert_close(done.outputs[task], value[0], atol=1e-9, rtol=0)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_random_graphs_equal_single_runs_and_compute_each_value_once(seed: int) -> None:
    rng = Random(seed)
    plans = [random_plan(rng, rng.randint(1, 8)) for _ in range(rng.randint(1, 3))]
    own = items(rng, rng.randint(1, 9))
    jobs = [Job(rng.choice(plans), item) for item in own]
    backend = Counter()
    for job, done in zip(jobs, done_of(backend, jobs, collate), strict=True):
        check(done, alone(job.plan, job.item))
    values = {
        (step.identity, tuple(job.item[name].digest for name in step.inputs))
        for job in jobs
        for step in job.plan
    }
    assert len(backend.rows) == len(values)
    assert sorted(backend.calls) == sorted({identity for identity, _ in values})
    contents = [(job.plan, {name: one.digest for name, one in job.item.items()}) for job in jobs]
    computed = sum(done.macs for done in done_of(TorchBackend(), jobs, collate))
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
    first = done_of(TorchBackend(), [Job(plan, item, keep=kept) for item in own], collate)
    assert all(done.kept.keys() == kept for done in first)
    backend = Counter()
    mixed = [
        Job(plan, item, known=done.kept) if rng.random() < 0.7 else Job(plan, item)
        for item, done in zip(own, first, strict=True)
    ]
    again = done_of(backend, mixed, collate)
    for before, after in zip(first, again, strict=True):
        for task, value in before.outputs.items():
            torch.testing.assert_close(after.outputs[task], value, atol=1e-9, rtol=0)
    if all(job.known for job in mixed):
        needed = {step.identity for step in plan.rest(kept)}
        assert set(backend.calls) == needed
        assert not needed & kept


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_a_failing_step_fails_only_the_jobs_that_need_it(seed: int) -> None:
    rng = Random(seed)
    plans = [random_plan(rng, rng.randint(1, 6), failing=2) for _ in range(rng.randint(1, 4))]
    jobs = [Job(rng.choice(plans), item) for item in items(rng, rng.randint(1, 9))]
    found = results_of(TorchBackend(), jobs, collate)
    assert sorted(found) == list(range(len(jobs)))
    for j, job in enumerate(jobs):
        one = found[j]
        if any(step.run is broken for step in job.plan):
            assert isinstance(one, BrokenError)
        else:
            assert isinstance(one, Done)
            check(one, alone(job.plan, job.item))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_random_graphs_run_from_recordings_as_they_run_without(seed: int) -> None:
    rng = Random(seed)
    plans = [random_plan(rng, rng.randint(1, 8)) for _ in range(2)]
    policy = RecordingPolicy(record_after=1, compile_after=None)
    backend = GraphBackend("cpu", policy=policy, recorder=Tape())
    for _ in range(2):
        jobs = [Job(rng.choice(plans), item) for item in items(rng, rng.randint(1, 6))]
        for job, done in zip(jobs, done_of(backend, jobs, collate), strict=True):
            check(done, alone(job.plan, job.item))
