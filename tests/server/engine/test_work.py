from __future__ import annotations

import torch

from models.core import Cost, Step
from server.engine.work import BatchKey, Prepared, Work
from tests.server.engine.fake import INPUT
from tests.tiny import tiny_model


def test_equal_plans_of_one_model_share_a_key_and_others_do_not() -> None:
    model = tiny_model()
    small, large = (
        model.plan(subnet, model.input.shape)
        for subnet in (model.space.smallest, model.space.largest)
    )
    again = model.plan(model.space.smallest, model.input.shape)
    assert Prepared("tiny", small, INPUT).key == Prepared("tiny", again, INPUT).key
    assert hash(Prepared("tiny", small, INPUT).key) == hash(Prepared("tiny", again, INPUT).key)
    assert Prepared("tiny", small, INPUT).key != Prepared("tiny", large, INPUT).key
    assert Prepared("tiny", small, INPUT).key != Prepared("other", small, INPUT).key
    assert Prepared("tiny", small, INPUT).key != Prepared("tiny", small[:-1], INPUT).key


def test_a_key_is_no_tuple_of_its_parts() -> None:
    assert BatchKey("a") != ("a",)


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
    assert one.key == Work(prepared, torch.ones(2)).key
    assert one.key != other.key
