"""What a batch of items promises, for every family and on every back end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import pytest
import torch
from torch import nn

from models.backends.cuda.graphs import GraphBackend
from models.backends.onnx.backend import OnnxBackend
from models.backends.torch import TorchBackend
from models.core import Plan, shared_cost
from models.inputs import Item
from models.nn.ragged import Value
from models.run.agreement import check_agreement
from models.run.backend import Backend
from models.run.chain import Chain
from models.run.execution import never
from models.run.jobs import Done, Job
from tests.conformance.backends import EVERY
from tests.conformance.subject import Made
from tests.walking import answers_of, done_of

NUM_ITEMS = 14
TOLERANCES = {"cpu": 1e-5, "cuda": 1e-4}


class Calls(TorchBackend):
    """Counts, by identity, calls and rows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[bytes] = Counter()
        self.rows = 0

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        result = super().run_chain(chain, inputs, stop)
        for step in chain.steps:
            self.calls[step.identity] += 1
            self.rows += len(result)
        return result


def pool_of(made: Made, rng: Random) -> list[Item]:
    """Return items whose inputs are drawn from a few contents, so that many are equal."""
    contents = {name: [made.item(rng, [name])[name] for _ in range(3)] for name in made.inputs}
    return [
        {name: rng.choice(contents[name]) for name in rng.choice(made.names())}
        for _ in range(NUM_ITEMS)
    ]


def mixed(made: Made, seed: int, most_plans: int) -> list[Job]:
    """Return jobs of a batch: subnets, tasks, inputs and lengths are mixed, and some are raw."""
    rng = Random(seed)
    items = pool_of(made, rng)
    kinds = [made.some_tasks(rng) for _ in range(most_plans)]
    subnets = {
        names: [(made.subnet(rng, names, tasks), tasks) for tasks in kinds]
        for names in made.names()
    }
    jobs = []
    for item in items:
        names = tuple(name for name in made.inputs if name in item)
        subnet, tasks = rng.choice(subnets[names])
        plan = made.plan(subnet, made.inputs.shapes(item), tasks)
        jobs.append(Job(plan.with_raw() if rng.random() < 0.3 else plan, item))
    return jobs


def check_back_ends(jobs: Sequence[Job], done: Sequence[Done], expected: Sequence[Done]) -> None:
    """Compare answers of two back ends, within what the steps of each plan say."""
    for job, one, other in zip(jobs, done, expected, strict=True):
        assert one.outputs.keys() == other.outputs.keys()
        tolerance = sum(step.tolerance for step in job.plan)
        for task, value in other.outputs.items():
            check_agreement(one.outputs[task][None], value[None], tolerance)


def check(done: Sequence[Done], expected: Sequence[Done], tolerance: float) -> None:
    for one, other in zip(done, expected, strict=True):
        assert one.outputs.keys() == other.outputs.keys()
        for task, value in other.outputs.items():
            torch.testing.assert_close(one.outputs[task], value, atol=tolerance, rtol=tolerance)


def on(backend: Backend, made: Made) -> tuple[Made, int]:
    """Return the model where a back end can run it, and how many plans a batch may mix there."""
    if isinstance(backend, OnnxBackend) and not made.subject.on_onnx:
        pytest.skip("its exporting is tested with another form of the family")
    if backend.hardware:
        made = Made(made.subject, made.folder)
    for variant in made.variants.values():
        assert isinstance(variant, nn.Module)
        backend.prepare(variant)
    return made, 2 if isinstance(backend, OnnxBackend) else 6


@EVERY
def test_a_mixed_batch_equals_separate_runs(made: Made, backend: Backend) -> None:
    own, most_plans = on(backend, made)
    device = "cuda" if backend.hardware else "cpu"
    for seed in range(1 if isinstance(backend, OnnxBackend) else 3):
        jobs = mixed(own, seed, most_plans)
        together = done_of(backend, jobs, own.inputs.collate)
        alone = [done_of(backend, [job], own.inputs.collate)[0] for job in jobs]
        check(together, alone, TOLERANCES[device])
        torchs = mixed(made, seed, most_plans) if own is not made else jobs
        check_back_ends(torchs, together, done_of(TorchBackend(), torchs, made.inputs.collate))
    if isinstance(backend, OnnxBackend):  # it was not torch that gave torch's answers
        assert (backend.stats.refused, backend.stats.misses) == (0, 0)
        assert backend.stats.hits > 0
    if isinstance(backend, GraphBackend):
        assert backend.stats.hits > 0
        assert backend.stats.recordings > 0


def test_a_batch_is_one_call_for_each_function_and_one_row_for_each_value(made: Made) -> None:
    for seed in range(3):
        jobs = mixed(made, seed, 6)
        backend = Calls()
        done = done_of(backend, jobs, made.inputs.collate)
        values = {
            (step.identity, tuple(job.item[name].digest for name in step.inputs))
            for job in jobs
            for step in job.plan
        }
        assert backend.rows == len(values)
        assert set(backend.calls.values()) == {1}
        assert backend.calls.keys() == {identity for identity, _ in values}
        contents = [(job.plan, {n: one.digest for n, one in job.item.items()}) for job in jobs]
        assert sum(one.macs for one in done) == pytest.approx(shared_cost(contents).macs)


def test_a_run_goes_on_from_any_value_that_was_kept(made: Made) -> None:
    rng = Random(5)
    backend = TorchBackend()
    for job in mixed(made, 5, 6):
        kept = rng.choice(job.plan.steps).identity
        (first,) = done_of(
            backend, [Job(job.plan, job.item, keep=frozenset({kept}))], made.inputs.collate
        )
        (again,) = done_of(
            backend, [Job(job.plan, job.item, known=first.kept)], made.inputs.collate
        )
        check([again], [first], 1e-5)
        assert again.macs == sum(step.cost.macs for step in job.plan.rest({kept}))


@EVERY
def test_plans_run_together_give_their_own_answers(made: Made, backend: Backend) -> None:
    own, _ = on(backend, made)
    rng = Random(6)
    for names in own.names():
        item = own.item(rng, names)
        shapes, batch = own.inputs.shapes(item), own.batch(item)
        ends = (own.space.smallest, own.space.largest)
        plans: list[Plan] = [own.plan(end | own.given(names), shapes) for end in ends]
        found = backend.run_all(plans, batch)
        for end, answers in zip(ends, found, strict=True):
            plan = made.plan(end | made.given(names), shapes)
            expected = answers_of(plan, batch)
            assert answers.keys() == expected.keys()
            for task, value in expected.items():
                tolerance = sum(step.tolerance for step in plan)
                check_agreement(answers[task], value, tolerance)
