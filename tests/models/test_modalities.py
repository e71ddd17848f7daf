"""What one model of several maps promises beyond the kit: the tokens it keeps, and their price."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from models.core import Plan
from models.families.modalities import Modalities, Modality
from models.inputs.tensor import TensorInput
from models.nn.token_maps import spread_order
from models.space import Subnet
from tests.conformance.fixtures.modalities import modalities
from tests.walking import answers_of


def planned(model: Modalities, names: str, **choices: Any) -> Plan:
    subnet = Subnet({**model.space.largest, "inputs": names, **choices})
    return model.plan(subnet, model.inputs.plan_shapes(names=names.split("+")))


def test_the_first_tokens_are_spread_and_those_of_other_inputs_lie_between() -> None:
    size = (8, 6)
    orders = [spread_order(size, shift) for shift in range(4)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(48))
    quarters = [{(int(at) // 6, int(at) % 6) for at in order[:12]} for order in orders]
    assert quarters[0] == {(y, x) for y in range(0, 8, 2) for x in range(0, 6, 2)}
    assert len(set.union(*quarters)) == 48  # no place is seen by two
    assert {sum(divmod(int(at), 6)) % 2 for at in orders[0][:24]} == {0}  # a chequerboard


def test_what_is_not_there_or_not_kept_takes_nothing_and_changes_nothing() -> None:
    model = modalities()
    both, image = planned(model, "image+depth"), planned(model, "image")
    assert both.cost.macs > 1.5 * image.cost.macs
    assert image.inputs == ("image",)
    few = planned(model, "image", tokens=0.5)
    maps = torch.randn(2, 3, 8, 12)
    spoilt = maps.clone().view(2, 3, 2, 4, 3, 4)  # [_, _, row, y, column, x]
    for at in model.patches_of("image").order[3:].tolist():
        spoilt[:, :, at // 3, :, at % 3] = torch.nan
    expected, found = (answers_of(few, {"image": x}) for x in (maps, spoilt.view(maps.shape)))
    for task, one in expected.items():
        torch.testing.assert_close(found[task], one, atol=0, rtol=0)


def test_items_share_the_tokens_of_inputs_that_both_have() -> None:
    model = modalities()
    shared = (
        planned(model, "image+depth").identities & planned(model, "image", width=0.5).identities
    )
    assert len(shared) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ()}, r"modalities=\[\]: 1 to 6"),
        ({"modalities": (Modality("a+b", TensorInput((1, 8, 12))),)}, "without \\+"),
        ({"modalities": (Modality("a", TensorInput((8,))),)}, r"shape \(8,\) must be \[channels"),
        ({"patch": 5}, r"patch=5 must divide \(8, 12\)"),
        ({"tokens": (0.1, 1.0)}, r"tokens=\[0.1, 1.0\] must be 0.166667 or more"),
        ({"widths": (0.5,)}, r"widths=\[0.5\] must be positive, ascend and end at 1"),
        ({"tasks": ()}, "tasks="),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(modalities().config, **change)


def test_inputs_of_another_set_than_the_subnets_are_refused() -> None:
    model = modalities()
    with pytest.raises(ValueError, match="inputs='image\\+depth'"):
        model.plan(model.space.largest, model.inputs.plan_shapes(names=["image"]))
