"""A run can be left at an inner step and gone on with, for some of its rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.backends.torch import Advanced, TorchBackend
from models.core import plan_cost, rest_after
from models.ragged import Ragged
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
    tokens = Ragged.pack(token_rows(LENGTHS))

    first = backend.advance(shallow, {"tokens": tokens}, keep=[shared])
    state = first.kept[shared]
    assert isinstance(state, Ragged)
    chosen = {"hidden": state.select(CHOSEN)}
    found = backend.advance(rest, chosen, resume=shared).leaves[deep[-1].path]
    whole = backend.run(deep, {"tokens": tokens})[deep[-1].path]
    torch.testing.assert_close(found, whole[list(CHOSEN)], atol=1e-5, rtol=0)

    one = Ragged.pack(token_rows((7,)))
    kept: list[Advanced] = []
    # The counter cannot see into the fused kernels; the plain one is made of products.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            kept.append(backend.advance(shallow, {"tokens": one}, keep=[shared]))
        assert counter.get_total_flops() == plan_cost(shallow).flops
        with FlopCounterMode(display=False) as counter:
            backend.advance(rest, {"hidden": kept[0].kept[shared]}, resume=shared)
        assert counter.get_total_flops() == plan_cost(rest).flops
    # What is paid twice is the shallow exit and nothing else.
    both = plan_cost(shallow).macs + plan_cost(rest).macs
    assert both == plan_cost(deep).macs + shallow[-1].cost.macs


def test_a_plan_cannot_go_on_from_a_step_that_it_does_not_have() -> None:
    model = tiny_exits()
    narrow, whole = (model.plan(s, (3,)) for s in (model.space.smallest, model.space.largest))
    with pytest.raises(ValueError, match="does not pass"):
        rest_after(whole, narrow[1].path)
    assert rest_after(whole, ()) == whole
