"""Vectors that keep their length beside unit vectors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.backends.torch import TorchBackend
from models.core import with_raw
from models.nn.ragged import Ragged
from models.run.jobs import Done, Job
from search.timing.profile import function_of
from tests.tiny import tiny_model
from tests.tiny_text import ARCHITECTURES, tiny_exits, token_rows


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("dim", [4, 12])
def test_raw_vectors_have_the_unit_vectors_direction_and_their_own_length(
    architecture: str, dim: int
) -> None:
    model, backend = tiny_exits(architecture, projection=12, dims=(4, 12)), TorchBackend()
    subnet = model.space.check({"depth": 2, "heads": 1.0, "ffn": 0.5, "dim": dim})
    plan = model.plan(subnet, (9,))
    raw = with_raw(plan)
    rows = Ragged.pack(token_rows())
    (units,) = backend.run(plan, {"tokens": rows}).values()
    (found,) = backend.run(raw, {"tokens": rows}).values()
    hidden = rows
    for step in plan[:-1]:
        hidden = step.run(hidden)
    torch.testing.assert_close(found, model.pool(2, dim, hidden), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(F.normalize(found, dim=1), units, atol=1e-6, rtol=0)
    assert (found.norm(dim=1) - 1).abs().min() > 1e-3
    assert found.shape == (len(rows), dim)


def test_a_batch_may_mix_both_and_shares_all_but_the_exit() -> None:
    model, backend = tiny_exits(), TorchBackend()
    plan = model.plan(model.space.largest, (9,))
    raw = with_raw(plan)
    assert [step.path for step in raw[:-1]] == [step.path for step in plan[:-1]]
    rows = token_rows([5, 5, 3, 9])
    jobs = [Job((plan, raw)[i % 2], i // 2) for i in range(2 * len(rows))]
    done = dict(
        pair
        for pairs in backend.execute(jobs, rows, lambda items: {"tokens": Ragged.pack(items)})
        for pair in pairs
    )
    for i, job in enumerate(jobs):
        alone = backend.run(job.plan, {"tokens": Ragged.pack([rows[job.row]])})
        found = done[i]
        assert isinstance(found, Done)
        for path, value in alone.items():
            torch.testing.assert_close(found.outputs[path], value[0], atol=1e-5, rtol=1e-5)


def test_raw_plans_cost_what_the_others_cost_and_are_timed_as_they_are() -> None:
    model = tiny_exits()
    plan = model.plan(model.space.largest, (9,))
    raw = with_raw(plan)
    assert [step.cost for step in raw] == [step.cost for step in plan]
    assert list(map(function_of, raw)) == list(map(function_of, plan))


def test_a_plan_without_unit_vectors_stays_as_it_is() -> None:
    model = tiny_model()
    plan = model.plan(model.space.largest, model.input.shape)
    assert with_raw(plan) == plan
