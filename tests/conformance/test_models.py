"""What a model of every family promises by itself: slices, costs, weights and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import prod
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models import checkpoint, families
from models.core import Plan, Shapes, Step
from models.nn.ragged import Value
from models.run.weights import weight_bytes
from models.space import Subnet
from tests.conformance.subject import LONGEST, Made, cut_to, spoil
from tests.conformance.subjects import of_family
from tests.walking import answers_of

MOST_SUBNETS = 48
COUNTED = {  # by the shapes of what they take
    torch.ops.rheostat.int8_linear: lambda x, w, *_, **__: 2 * x[0] * x[1] * w[1],
    torch.ops.rheostat.int8_conv: lambda x, w, *_, out_shape, **__: (
        2 * prod(out_shape) * prod(w[1:])
    ),
    torch.ops.aten._embedding_bag_forward_only: lambda w, ids, *_, **__: 2 * ids[0] * w[1],
    torch.ops.aten._embedding_bag: lambda w, ids, *_, **__: 2 * ids[0] * w[1],
}


def close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for task, value in expected.items():
        torch.testing.assert_close(found[task], value, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", families.names())
def test_every_registered_family_has_a_fixture(name: str) -> None:
    assert [subject.family for subject in of_family(name)] != []
    assert {subject.made_by for subject in of_family(name)} == {families.get(name)}


def cases(made: Made, most: int = MOST_SUBNETS) -> list[tuple[Subnet, Shapes, dict[str, Value]]]:
    """Return subnets with an item each, of every set of inputs that there may be."""
    rng = Random(0)
    found = []
    for names in made.names():
        for subnet in made.subnets(rng, most, names):
            item = made.item(rng, names)
            found.append((subnet, made.inputs.shapes(item), made.batch(item)))
    return found


def test_a_slice_equals_a_physically_cut_copy(made: Made) -> None:
    subject = made.subject
    for subnet, shapes, batch in cases(made):
        whole = made.of(subnet)
        found = answers_of(whole.plan(subnet, shapes), batch)
        if subject.cut is not None:
            expected = subject.cut(whole, subnet, made.tasks)(batch)
        else:
            copy = made.copy_of(subnet)
            cut_to(copy, subject.kept(whole, subnet, made.tasks))
            expected = answers_of(copy.plan(subnet, shapes), batch)
        close(found, expected, 1e-5)


def test_counted_macs_of_every_step_equal_its_cost(made: Made) -> None:
    for subnet, shapes, batch in cases(made):
        plan = made.plan(subnet, shapes)
        values: dict[bytes, Value] = {}
        for step in plan:
            taken = [batch[x] if isinstance(x, str) else values[x.identity] for x in step.takes]
            # The counter cannot see into the fused kernels; the plain one is made of products.
            with (
                sdpa_kernel(SDPBackend.MATH),
                FlopCounterMode(display=False, custom_mapping=COUNTED) as counter,
            ):
                values[step.identity] = step.run(*taken)
            assert counter.get_total_flops() == step.cost.flops, (subnet, step)
        assert plan.cost.macs == sum(step.cost.macs for step in plan)


def test_bytes_of_every_step_are_those_of_the_weights_that_it_computes_with(made: Made) -> None:
    if made.subject.family not in families.names():
        pytest.skip("a toy does not say")
    for subnet, shapes, batch in cases(made, 12):
        plan, values = made.plan(subnet, shapes), dict(batch)
        for step in plan:
            taken = {f"{i}": values[one] for i, one in enumerate(map(_name, step.takes))}
            alone = Plan({"": replace(step, takes=tuple(taken))})
            assert weight_bytes(made.of(subnet), alone, taken) == step.cost.bytes, (subnet, step)
            values[_name(step)] = step.run(*taken.values())


def _name(value: Step | str) -> str:
    return value if isinstance(value, str) else value.identity.hex()


def test_costs_are_polynomials_of_degree_two_in_each_length_and_functions_know_no_length(
    made: Made,
) -> None:
    rng = Random(1)
    for names in made.names():
        long = [name for name in names if made.inputs[name].type.has_length]
        for subnet in made.subnets(rng, 8, names):
            for name in long:
                others = made.inputs.shapes(made.item(rng, names))
                of = made.inputs[name].type
                longest = of.plan_shape(None)[0]
                plans = {
                    n: made.plan(subnet, {**others, name: of.plan_shape(n)})
                    for n in (1, 2, 3, 4, 7, longest - 1, longest)
                }
                assert len({tuple(step.identity for step in plan) for plan in plans.values()}) == 1
                for i, _ in enumerate(plans[1]):
                    known = {n: plans[n].steps[i].cost.macs for n in (1, 2, 3)}
                    for n, plan in plans.items():
                        assert plan.steps[i].cost.macs == through(known, n)


def through(known: Mapping[int, int], n: int) -> Fraction:
    """Return the value at n of the polynomial of degree two through three points."""
    found = Fraction(0)
    for i, value in known.items():
        term = Fraction(value)
        for j in known.keys() - {i}:
            term *= Fraction(n - j, i - j)
        found += term
    return found


def test_weights_that_are_not_read_may_be_nan(made: Made) -> None:
    for subnet, shapes, batch in cases(made, 8):
        for tasks in [made.tasks, *([task] for task in made.tasks)]:
            choices = made.part(tasks).check({a: subnet[a] for a in axes_of(made, tasks)})
            whole = made.of(subnet)
            expected = answers_of(whole.plan(choices, shapes, tasks), batch)
            model = made.copy_of(subnet)
            spoil(model, made.subject.kept(whole, choices, tasks))
            close(answers_of(model.plan(choices, shapes, tasks), batch), expected, 1e-6)


def axes_of(made: Made, tasks: list[str]) -> list[str]:
    return [axis.name for axis in made.part(tasks).axes]


def test_a_task_alone_is_answered_as_among_all_and_costs_no_more(made: Made) -> None:
    for subnet, shapes, batch in cases(made, 4):
        whole = made.plan(subnet, shapes)
        together = answers_of(whole, batch)
        for task in made.tasks:
            choices = made.part([task]).check({a: subnet[a] for a in axes_of(made, [task])})
            plan = made.plan(choices, shapes, [task])
            assert plan.identities <= whole.identities
            close(answers_of(plan, batch), {task: together[task]}, 1e-6)


def test_what_is_not_the_models_is_refused(made: Made) -> None:
    rng = Random(2)
    names = made.names()[-1]
    shapes = made.inputs.shapes(made.item(rng, names))
    subnet = made.subnet(rng, names)
    with pytest.raises(ValueError, match="unknown task 'nothing'"):
        made.plan(subnet, shapes, ["nothing"])
    with pytest.raises(ValueError, match="nothing"):
        made.plan(subnet | {"nothing": 1}, shapes)
    for axis in made.space.axes:
        with pytest.raises(ValueError, match=axis.name):
            made.model.plan(subnet | {axis.name: "never"}, shapes)


def test_a_checkpoint_gives_back_a_model_with_the_same_answers(
    made: Made, registered: None, tmp_path: Path
) -> None:
    model, subject = made.model, made.subject
    subject.make(tmp_path)  # writes what is needed beside the weights
    assets = getattr(model, "assets", ())
    checkpoint.save(tmp_path, model, subject.family, torch.float32, assets)
    loaded = checkpoint.load(tmp_path).model
    assert loaded.config == model.config
    assert loaded.space.axes == model.space.axes
    assert loaded.tasks == model.tasks
    assert loaded.inputs.keys() == model.inputs.keys()
    rng = Random(3)
    for names in made.names():
        item = made.item(rng, names, LONGEST)
        shapes, batch = made.inputs.shapes(item), made.batch(item)
        assert loaded.inputs.shapes(item) == shapes
        for subnet in made.subnets(rng, 4, names):
            choices = subnet | {a.name: a.values[-1] for a in made.space.axes if a.when == "load"}
            plans = (one.plan(choices, shapes) for one in (loaded, model))
            found, expected = (answers_of(plan, batch) for plan in plans)
            close(found, expected, 0.0)
