"""Vectors that keep their length beside unit vectors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.backends.torch import TorchBackend
from models.nn.ragged import Ragged
from models.run.jobs import Done, Job
from tests.tiny import tiny_model
from tests.tiny_text import ARCHITECTURES, collate, items_of, tiny_exits, token_rows
from tests.walking import values_of

SHAPES = {"text": (9,)}


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("dim", [4, 12])
def test_raw_vectors_have_the_unit_vectors_direction_and_their_own_length(
    architecture: str, dim: int
) -> None:
    model, backend = tiny_exits(architecture, projection=12, dims=(4, 12)), TorchBackend()
    subnet = model.space.check({"depth": 2, "heads": 1.0, "ffn": 0.5, "dim": dim})
    plan = model.plan(subnet, SHAPES)
    rows = Ragged.pack(token_rows())
    (units,) = backend.run(plan, {"text": rows}).values()
    (found,) = backend.run(plan.with_raw(), {"text": rows}).values()
    hidden = values_of(plan, {"text": rows})[plan.steps[-2].identity]
    assert isinstance(hidden, Ragged)
    torch.testing.assert_close(found, model.pool(2, dim, hidden), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(F.normalize(found, dim=1), units, atol=1e-6, rtol=0)
    assert (found.norm(dim=1) - 1).abs().min() > 1e-3
    assert found.shape == (len(rows), dim)


def test_a_batch_may_mix_both_and_shares_all_but_the_exit() -> None:
    model, backend = tiny_exits(), TorchBackend()
    plan = model.plan(model.space.largest, SHAPES)
    raw = plan.with_raw()
    assert [s.identity for s in raw.steps[:-1]] == [s.identity for s in plan.steps[:-1]]
    rows = token_rows([5, 5, 3, 9])
    jobs = [Job(one, item) for item in items_of(rows) for one in (plan, raw)]
    done = dict(pair for pairs in backend.execute(jobs, collate) for pair in pairs)
    for i, job in enumerate(jobs):
        alone = backend.run(job.plan, {"text": Ragged.pack([rows[i // 2]])})
        found = done[i]
        assert isinstance(found, Done)
        for task, value in alone.items():
            torch.testing.assert_close(found.outputs[task], value[0], atol=1e-5, rtol=1e-5)


def test_raw_plans_cost_what_the_others_cost_and_are_timed_as_they_are() -> None:
    model = tiny_exits()
    plan = model.plan(model.space.largest, SHAPES)
    raw = plan.with_raw()
    assert [step.cost for step in raw] == [step.cost for step in plan]
    timed = [step.key if step.timed_as is None else step.timed_as for step in raw]
    assert timed == [step.key for step in plan]


def test_a_plan_without_unit_vectors_stays_as_it_is() -> None:
    model = tiny_model()
    plan = model.plan(model.space.largest, {"image": (3, 16, 16)})
    assert plan.with_raw().steps == plan.steps
