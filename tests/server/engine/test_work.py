from __future__ import annotations

import torch

from models.core import Cost, Step
from server.engine.work import Prepared, Work
from tests.server.engine.fake import INPUT
from tests.tiny import tiny_model


def test_all_plans_of_one_model_that_start_at_one_place_share_a_batch() -> None:
    model = tiny_model()
    image = torch.zeros(1)
    small, large = (
        Prepared("tiny", model.plan(subnet, model.input.shape), INPUT)
        for subnet in (model.space.smallest, model.space.largest)
    )
    assert Work(small, image).ticket.key == Work(large, image).ticket.key
    other = Prepared("other", small.plan, INPUT)
    resumed = Prepared("tiny", small.plan[1:], INPUT, resume=small.plan[0].path)
    newer = Prepared("tiny", small.plan, INPUT, owner=model)
    assert len({Work(p, image).ticket.key for p in (small, other, resumed, newer)}) == 4


def test_leaves_are_the_steps_that_answer_and_no_others() -> None:
    root = Step("stem", torch.clone, Cost(), None, ("image",), "h")
    first = Step("first", torch.clone, Cost(), root, ("h",), "fish")
    second = Step("second", torch.clone, Cost(), root, ("h",), "people")
    leaves = Prepared("m", (root, first, second), INPUT).leaves
    assert leaves == {"fish": ("stem", "first"), "people": ("stem", "second")}


def test_works_of_different_input_shape_are_not_stacked() -> None:
    step = Step("root", torch.clone, Cost(), None, ("image",), "answer")
    prepared = Prepared("m", (step,), INPUT)
    one, other = (Work(prepared, torch.zeros(size)) for size in (2, 3))
    assert one.ticket.key == Work(prepared, torch.ones(2)).ticket.key
    assert one.ticket.key != other.ticket.key
