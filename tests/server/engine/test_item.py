from __future__ import annotations

import torch

from models.core import Plan, Step
from server.engine.item import PreparedPlan, QueueItem
from tests.server.engine.fake import INPUTS
from tests.tiny import tiny_model


def test_all_plans_of_one_model_share_a_batch_also_those_that_go_on_from_kept_values() -> None:
    model = tiny_model()
    item = INPUTS.item({"image": torch.zeros(1)})
    shapes = {"image": model.config.input.shape}
    small, large = (
        PreparedPlan("tiny", model.plan(subnet, shapes), INPUTS)
        for subnet in (model.space.smallest, model.space.largest)
    )
    known = frozenset({small.plan.steps[0].identity})
    going_on = PreparedPlan("tiny", small.plan, INPUTS, known=known)
    assert QueueItem(small, item).ticket.key == QueueItem(large, item).ticket.key
    assert QueueItem(small, item).ticket.key == QueueItem(going_on, item).ticket.key
    other = PreparedPlan("other", small.plan, INPUTS)
    newer = PreparedPlan("tiny", small.plan, INPUTS, owner=model)
    assert len({QueueItem(p, item).ticket.key for p in (small, other, newer)}) == 3


def test_what_goes_on_from_kept_values_costs_the_rest() -> None:
    model = tiny_model()
    plan = model.plan(model.space.largest, {"image": model.config.input.shape})
    first = plan.steps[0]
    whole = PreparedPlan("tiny", plan, INPUTS)
    rest = PreparedPlan("tiny", plan, INPUTS, known=frozenset({first.identity}))
    assert rest.macs == whole.macs - first.cost.macs > 0
    assert rest.steps == whole.steps[1:]


def test_works_of_different_input_shape_are_not_stacked() -> None:
    prepared = PreparedPlan("m", Plan({"answer": Step("root", torch.clone, ("image",))}), INPUTS)
    one, same, other = (
        QueueItem(prepared, INPUTS.item({"image": value}))
        for value in (torch.zeros(2), torch.ones(2), torch.zeros(3))
    )
    assert one.ticket.key == same.ticket.key
    assert one.ticket.key != other.ticket.key
