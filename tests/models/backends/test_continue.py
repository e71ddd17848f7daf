"""A run can be left at an inner step and gone on with, for some of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.backends.torch import TorchBackend
from models.core import plan_cost, rest_after
from models.nn.ragged import Ragged
from models.run.jobs import Done, Job
from tests.tiny_text import ARCHITECTURES, tiny_exits, token_rows

LENGTHS = (5, 2, 7, 7, 1)
CHOSEN = (4, 0, 2)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_going_deeper_gives_the_deep_answer_and_costs_the_difference(architecture: str) -> None:
    model, backend = tiny_exits(architecture, projection=12, dims=(4, 12)), TorchBackend()
    deep, shallow = (
        model.plan(model.space.check({**model.space.largest, "depth": depth}), (7,))
        for depth in (4, 2)
    )
    shared = shallow[-2].path
    rest = rest_after(deep, shared)
    rows = token_rows(LENGTHS)

    def start(tokens: Tensor) -> Done:
        return execute(backend, [Job(shallow, 0, keep=shared)], [tokens], Ragged.pack, "tokens")[0]

    states = [start(row).kept for row in rows]
    jobs = [Job(rest, i, resume=shared) for i in range(len(CHOSEN))]
    found = execute(backend, jobs, [states[i] for i in CHOSEN], Ragged.join, "hidden")
    whole = backend.run(deep, {"tokens": Ragged.pack(rows)})[deep[-1].path]
    for i, done in zip(CHOSEN, found, strict=True):
        torch.testing.assert_close(done.outputs[deep[-1].path], whole[i], atol=1e-5, rtol=0)

    (one,) = token_rows((7,))
    # The counter cannot see into the fused kernels; the plain one is made of products.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            state = start(one).kept
        assert counter.get_total_flops() == plan_cost(shallow).flops
        with FlopCounterMode(display=False) as counter:
            execute(backend, [Job(rest, 0, resume=shared)], [state], Ragged.join, "hidden")
        assert counter.get_total_flops() == plan_cost(rest).flops
    # What is paid twice is the shallow exit and nothing else.
    both = plan_cost(shallow).macs + plan_cost(rest).macs
    assert both == plan_cost(deep).macs + shallow[-1].cost.macs


def execute(
    backend: TorchBackend,
    jobs: Sequence[Job],
    items: Sequence[Any],
    join: Callable[[Sequence[Any]], Ragged],
    name: str,
) -> list[Done]:
    found: dict[int, Done] = {}
    for answered in backend.execute(jobs, items, lambda rows: {name: join(rows)}):
        for i, done in answered:
            assert isinstance(done, Done)
            found[i] = done
    return [found[i] for i in range(len(jobs))]


def test_a_plan_cannot_go_on_from_a_step_that_it_does_not_have() -> None:
    model = tiny_exits()
    narrow, whole = (model.plan(s, (3,)) for s in (model.space.smallest, model.space.largest))
    with pytest.raises(ValueError, match="does not pass"):
        rest_after(whole, narrow[1].path)
    assert rest_after(whole, ()) == whole
