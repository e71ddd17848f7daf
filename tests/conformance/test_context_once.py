"""One context and twenty candidates: what depends on the context alone is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.backends.onnx.backend import OnnxBackend
from models.backends.torch import TorchBackend
from models.core import shared_cost
from models.nn.ragged import Value
from models.run.backend import Backend
from models.run.chain import Chain
from models.run.execution import never
from models.run.jobs import Job
from tests.conformance.backends import EVERY
from tests.conformance.fixtures.toys import SUBJECTS
from tests.conformance.subject import Made
from tests.walking import answers_of, done_of

CANDIDATES = 20
DEPTH = 3
CANDIDATE = ("enter", "candidate")


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Made:
    (subject,) = (one for one in SUBJECTS if one.name == "context_once")
    return Made(subject, tmp_path_factory.mktemp("ranking"))


def jobs_of(made: Made, depths: Sequence[int] = (DEPTH,), same_length: bool = False) -> list[Job]:
    """Return a context with each of twenty candidates, with the depths in turn."""
    rng = Random(0)
    context = made.item(rng, ["context"], 11)
    jobs = []
    for i in range(CANDIDATES):
        item = {**context, **made.item(rng, ["candidate"], 6 if same_length else None)}
        subnet = made.space.check({"depth": depths[i % len(depths)]})
        jobs.append(Job(made.plan(subnet, made.inputs.shapes(item)), item))
    return jobs


class Calls(TorchBackend):
    """Notes the rows of each call by the step's key."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[object, int] = {}
        self.num_calls: Counter[object] = Counter()

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        result = super().run_chain(chain, inputs, stop)
        for step in chain.steps:
            self.rows[step.key] = len(result)
            self.num_calls[step.key] += 1
        return result


def test_steps_of_the_context_run_once_on_one_row_and_those_of_candidates_once_on_twenty(
    ranking: Made,
) -> None:
    backend = Calls()
    done_of(backend, jobs_of(ranking), ranking.inputs.collate)
    layers = range(DEPTH)
    of_context = [("enter", "context")]
    of_context += [(name, i) for i in layers for name in ("context", "memory")]  # type: ignore[misc]
    of_candidates = [("enter", "candidate"), *(("candidate", i) for i in layers), "score"]
    assert backend.rows == dict.fromkeys(of_context, 1) | dict.fromkeys(of_candidates, CANDIDATES)
    assert set(backend.num_calls.values()) == {1}
    # Twenty separate runs take as many calls each, and a row of the context each.
    assert sum(backend.num_calls.values()) == len(jobs_of(ranking)[0].plan)


def test_the_cost_known_beforehand_is_that_of_the_products_that_run(ranking: Made) -> None:
    jobs = jobs_of(ranking, same_length=True)  # what attention pads is computed, not charged
    backend = TorchBackend()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        done = done_of(backend, jobs, ranking.inputs.collate)
    contents = [(job.plan, {name: one.digest for name, one in job.item.items()}) for job in jobs]
    cost = shared_cost(contents)
    assert counter.get_total_flops() == cost.flops
    assert sum(one.macs for one in done) == pytest.approx(cost.macs)
    separate = sum(job.plan.cost.macs for job in jobs)
    context = sum(s.cost.macs for s in jobs[0].plan if s.inputs == ("context",))
    assert cost.macs == separate - (CANDIDATES - 1) * context


@EVERY
@pytest.mark.parametrize("depths", [(3,), (1, 3, 2)], ids=["one depth", "mixed depths"])
def test_scores_equal_those_of_twenty_separate_runs(
    ranking: Made, backend: Backend, depths: tuple[int, ...], tmp_path: Path
) -> None:
    made = Made(ranking.subject, tmp_path)
    backend.prepare(made.model)
    jobs = jobs_of(made, depths)
    together = done_of(backend, jobs, made.inputs.collate)
    for job, done, plain in zip(jobs, together, jobs_of(ranking, depths), strict=True):
        (alone,) = done_of(backend, [job], made.inputs.collate)
        expected = answers_of(plain.plan, ranking.batch(plain.item))["relevance"][0]
        for other, tolerance in ((alone.outputs["relevance"], 1e-5), (expected, 1e-4)):
            torch.testing.assert_close(done.outputs["relevance"], other, atol=tolerance, rtol=0)
    if isinstance(backend, OnnxBackend):
        assert (backend.stats.refused, backend.stats.misses) == (0, 0)


def test_kept_values_of_a_context_score_later_candidates_without_it(ranking: Made) -> None:
    """Each later candidate runs on the memories alone: the context itself is not looked at."""
    jobs = jobs_of(ranking)
    joints = jobs[0].plan.joints
    memories = [step for step in joints if step.inputs == ("context",)]
    assert [step.key for step in memories] == [("memory", i) for i in range(DEPTH)]
    assert {step.key for step in joints} - {step.key for step in memories} == {CANDIDATE}
    keep = frozenset(step.identity for step in memories)
    first, backend = Job(jobs[0].plan, jobs[0].item, keep=keep), Calls()
    (kept,) = done_of(TorchBackend(), [first], ranking.inputs.collate)
    later = [Job(job.plan, job.item, known=kept.kept) for job in jobs[1:]]
    found = done_of(backend, later, ranking.inputs.collate)
    assert {key for key in backend.rows if "context" in str(key) or "memory" in str(key)} == set()
    expected = done_of(TorchBackend(), jobs[1:], ranking.inputs.collate)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one.outputs["relevance"], other.outputs["relevance"], atol=1e-5, rtol=0
        )
