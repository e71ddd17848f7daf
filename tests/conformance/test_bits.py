"""Weights of a load axis: each variant has its own, and shares all that they do not touch."""

from __future__ import annotations

from random import Random

import pytest
import torch

from models.run.jobs import Job
from models.variants import NotBuiltError, added_bytes, all_choices
from tests.conformance.fixtures.toys import SUBJECTS
from tests.conformance.subject import Made
from tests.conformance.test_batches import Calls
from tests.conformance.toys.bits import Bits
from tests.walking import answers_of, done_of


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    (subject,) = (one for one in SUBJECTS if one.name == "bits")
    return Made(subject, tmp_path_factory.mktemp("bits"))


def test_a_variant_adds_only_the_weights_that_the_choice_is_about(made: Made) -> None:
    model = made.model
    hidden = sum(weight.nbytes for weight in model.hidden.parameters())
    added = {}
    for choices, one in made.variants.items():
        assert isinstance(one, Bits)
        added[choices] = added_bytes(one, model)
        assert one.head is model.head
    assert added == {(3,): hidden, (5,): hidden, (32,): 0}
    assert all_choices(made.space) == [(3,), (5,), (32,)]


def test_fewer_bits_are_fewer_values_and_a_larger_error(made: Made) -> None:
    whole = made.model.hidden.weight
    errors = []
    for (bits,), one in made.variants.items():
        assert isinstance(one, Bits)
        weight = one.hidden.weight
        assert int(bits) == 32 or len(set(weight.flatten().tolist())) <= 2 ** int(bits) - 1
        errors.append(float((weight - whole).abs().max()))
    assert errors[0] > errors[1] > errors[2] == 0


def test_a_batch_may_mix_variants_and_each_gets_its_own_answer(made: Made) -> None:
    rng = Random(0)
    item = made.item(rng, ["features"])
    shapes = made.inputs.shapes(item)
    plans = [made.plan(made.space.largest | {"bits": bits}, shapes) for bits in (3, 5, 32, 3)]
    backend = Calls()
    done = done_of(backend, [Job(plan, item) for plan in plans], made.inputs.collate)
    for one, plan in zip(done, plans, strict=True):
        expected = answers_of(plan, made.batch(item))["kind"][0]
        torch.testing.assert_close(one.outputs["kind"], expected, atol=1e-6, rtol=0)
    assert not torch.equal(done[0].outputs["kind"], done[2].outputs["kind"])
    assert torch.equal(done[0].outputs["kind"], done[3].outputs["kind"])
    assert backend.rows == 2 * 3


def test_a_variant_that_is_not_built_is_planned_as_it_will_be(made: Made) -> None:
    shapes = {"features": (5,)}
    for subnet in made.space:
        planned, built = made.model.plan(subnet, shapes), made.plan(subnet, shapes)
        assert [step.identity for step in planned] == [step.identity for step in built]
        assert planned.cost == built.cost


def test_a_plan_for_weights_that_are_not_built_does_not_run_on_others(made: Made) -> None:
    item = made.item(Random(0), ["features"])
    plan = made.model.plan(made.space.smallest, made.inputs.shapes(item))
    with pytest.raises(NotBuiltError, match="plan with the variant that has them"):
        answers_of(plan, made.batch(item))
