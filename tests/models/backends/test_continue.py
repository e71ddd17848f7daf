"""A run can be left at an inner value and gone on with, for some of its items."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.backends.torch import TorchBackend
from models.core import Plan, plan_cost
from models.run.jobs import Job
from tests.tiny_text import ARCHITECTURES, collate, items_of, tiny_exits, token_rows
from tests.walking import done_of

LENGTHS = (5, 2, 7, 7, 1)
CHOSEN = (4, 0, 2)
SHAPES = {"text": (7,)}


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_going_deeper_gives_the_deep_answer_and_costs_the_difference(architecture: str) -> None:
    model, backend = tiny_exits(architecture, projection=12, dims=(4, 12)), TorchBackend()
    deep, shallow = (
        model.plan(model.space.check({**model.space.largest, "depth": depth}), SHAPES)
        for depth in (4, 2)
    )
    (last,) = deep.last_common(shallow)
    assert last.key == shallow.steps[-2].key
    keep = frozenset({last.identity})
    items = items_of(token_rows(LENGTHS))
    states = [done_of(backend, [Job(shallow, item, keep=keep)], collate)[0].kept for item in items]
    jobs = [Job(deep, items[i], known=states[i]) for i in CHOSEN]
    for i, done in zip(CHOSEN, done_of(backend, jobs, collate), strict=True):
        (alone,) = done_of(backend, [Job(deep, items[i])], collate)
        torch.testing.assert_close(
            done.outputs["similarity"], alone.outputs["similarity"], atol=1e-5, rtol=0
        )
    check_costs(backend, shallow, deep, last.identity)


def check_costs(backend: TorchBackend, shallow: Plan, deep: Plan, kept: bytes) -> None:
    (one,) = items_of(token_rows((7,)))
    rest = plan_cost(deep.rest({kept}))
    # The counter cannot see into the fused kernels; the plain one is made of products.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            (first,) = done_of(backend, [Job(shallow, one, keep=frozenset({kept}))], collate)
        assert counter.get_total_flops() == shallow.cost.flops == 2 * first.macs
        with FlopCounterMode(display=False) as counter:
            (second,) = done_of(backend, [Job(deep, one, known=first.kept)], collate)
        assert counter.get_total_flops() == rest.flops == 2 * second.macs
    # What is paid twice is the shallow exit and nothing else.
    assert shallow.cost.macs + rest.macs == deep.cost.macs + shallow.steps[-1].cost.macs


def test_plans_of_other_widths_have_nothing_to_go_on_from_but_what_both_embed() -> None:
    model = tiny_exits()
    narrow, whole = (model.plan(s, SHAPES) for s in (model.space.smallest, model.space.largest))
    assert [step.key for step in whole.last_common(narrow)] == [("embed",)]
    assert not {step.identity for step in narrow.steps[1:]} & whole.identities
    assert tuple(whole.rest({narrow.steps[1].identity})) == whole.steps
    assert tuple(whole.rest(())) == whole.steps


def test_nobody_can_keep_what_is_not_of_the_plan() -> None:
    model = tiny_exits()
    narrow, whole = (model.plan(s, SHAPES) for s in (model.space.smallest, model.space.largest))
    (item,) = items_of(token_rows((7,)))
    job = Job(whole, item, keep=frozenset({narrow.steps[1].identity}))
    with pytest.raises(ValueError, match="what it wants to keep is not of its plan"):
        list(TorchBackend().execute([job], collate))
