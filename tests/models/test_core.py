from __future__ import annotations

from collections.abc import Collection, Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.core import Cost, Plan, Shape, Step, merge, plan_cost
from models.elastic import Elastic
from models.space import Axis, Space, Subnet
from models.tasks import Task


class Chain:
    """A toy family: `depth` layers of one width, then one head per task."""

    name = "chain"
    tasks: Mapping[str, Task] = {
        name: Task(name, "classification", ("no", "yes")) for name in ("left", "right")
    }

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
        self.space = Space(
            (
                Axis("depth", depths),
                Axis("width", widths),
                Axis("left.width", widths, task="left"),
                Axis("right.width", widths, task="right"),
            )
        )

    def plan(self, subnet: Subnet, shape: Shape, tasks: Collection[str] | None = None) -> Plan:
        wanted = [task for task in self.tasks if tasks is None or task in tasks]
        subnet = self.space.select({None, *wanted}).check(subnet)
        steps: list[Step] = []
        width = int(subnet["width"])
        for layer in range(int(subnet["depth"])):
            after = steps[-1] if steps else None
            key = ("layer", layer, width)
            steps.append(Step(key, lambda x: x + 1, Cost(width * shape[0]), after, ("x",), "x"))
        trunk = steps[-1]
        for task in wanted:
            own = int(subnet[f"{task}.width"])
            cost = Cost(width * own, output_bytes=4)
            steps.append(Step((task, own), lambda x: x * 2, cost, trunk, ("x",), task))
        return tuple(steps)


axis_values = st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True).map(
    lambda values: tuple(sorted(values))
)
chains = st.builds(Chain, depths=axis_values, widths=axis_values)


def draw(chain: Chain, seed: int) -> Subnet:
    return chain.space.sample(Random(seed))


@given(chains)
def test_space_yields_each_valid_subnet_once(chain: Chain) -> None:
    subnets = list(chain.space)
    expected = 1
    for axis in chain.space.axes:
        expected *= len(axis.values)
    assert len(set(subnets)) == len(subnets) == expected
    assert subnets[0] == chain.space.smallest
    assert subnets[-1] == chain.space.largest


@given(chains, st.integers())
def test_sample_is_a_member_and_repeats_with_its_seed(chain: Chain, seed: int) -> None:
    subnet = draw(chain, seed)
    assert subnet in set(chain.space)
    assert subnet == draw(chain, seed)


@given(chains, st.integers())
def test_neighbours_differ_on_one_axis_by_one_position(chain: Chain, seed: int) -> None:
    subnet = draw(chain, seed)
    for other in chain.space.neighbours(subnet):
        moved = [
            abs(axis.index(subnet[axis.name]) - axis.index(other[axis.name]))
            for axis in chain.space.axes
        ]
        assert sorted(moved) == [0, 0, 0, 1]
        assert subnet in set(chain.space.neighbours(other))


@given(chains, st.integers())
def test_encoding_is_distinct_per_subnet_and_within_the_unit_cube(chain: Chain, seed: int) -> None:
    vector = chain.space.encode(draw(chain, seed))
    assert all(0 <= x <= 1 for x in vector)
    codes = [chain.space.encode(subnet) for subnet in chain.space]
    assert len(set(codes)) == len(codes)


@given(chains, st.integers())
def test_plan_cost_is_the_sum_of_trunk_and_heads(chain: Chain, seed: int) -> None:
    subnet = draw(chain, seed)
    depth, width = int(subnet["depth"]), int(subnet["width"])
    heads = int(subnet["left.width"]) + int(subnet["right.width"])
    cost = plan_cost(chain.plan(subnet, (3,)))
    assert cost == Cost(macs=3 * depth * width + width * heads, output_bytes=8)
    assert cost.flops == 2 * cost.macs


@given(chains, st.integers(), st.integers())
def test_merging_runs_what_two_plans_share_once(chain: Chain, one: int, two: int) -> None:
    first, second = chain.plan(draw(chain, one), (3,)), chain.plan(draw(chain, two), (3,))
    paths = [{step.path for step in plan} for plan in (first, second)]
    merged = merge([first, second])
    assert set(merged) == paths[0] | paths[1]
    assert len(merged) == len(first) + len(second) - len(paths[0] & paths[1])
    placed: set[object] = set()
    for path, step in merged.items():
        assert step.after is None or step.after.path in placed
        placed.add(path)


def test_a_task_that_is_not_asked_for_has_no_steps_and_no_axes() -> None:
    chain: Elastic = Chain((1, 2), (4, 8))
    subnet = chain.space.select({None, "left"}).largest
    plan = chain.plan(subnet, (3,), ["left"])
    assert set(subnet) == {"depth", "width", "left.width"}
    assert [step.emits for step in plan] == ["x", "x", "left"]


def test_subnet_prints_its_choices_and_ignores_their_order() -> None:
    subnet = Subnet({"encoder.stage1": 0.5, "depth": 4})
    assert repr(subnet) == "encoder.stage1=0.5 depth=4"
    assert subnet == Subnet({"depth": 4, "encoder.stage1": 0.5})
    assert hash(subnet) == hash(Subnet({"depth": 4, "encoder.stage1": 0.5}))
    assert subnet | {"depth": 2} == Subnet({"encoder.stage1": 0.5, "depth": 2})
    assert subnet["depth"] == 4


def test_check_spells_values_as_the_axis_does() -> None:
    space = Space((Axis("width", (0.5, 1.0)),))
    assert repr(space.check({"width": 1})) == "width=1.0"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"width": 0.6}, r"width=0.6 is not allowed; one of \[0.5, 1.0\]"),
        ({"width": True}, "width=True is not allowed"),
        ({"width": "1.0"}, "width='1.0' is not allowed"),
        ({}, "axis 'width' has no value"),
        ({"width": 1.0, "depth": 1}, "unknown axis 'depth'; one of"),
    ],
    ids=["unlisted", "bool", "text", "missing", "unknown"],
)
def test_check_refuses_and_says_what_is_allowed(
    choices: Mapping[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Space((Axis("width", (0.5, 1.0)),)).check(choices)


def test_validity_rule_limits_the_space() -> None:
    space = Space(
        (Axis("depth", (1, 2)), Axis("width", (4, 8))),
        valid=lambda subnet: (subnet["depth"] == 1) == (subnet["width"] == 4),
    )
    assert [dict(subnet) for subnet in space] == [
        {"depth": 1, "width": 4},
        {"depth": 2, "width": 8},
    ]
    assert {space.sample(Random(seed)) for seed in range(40)} == set(space)
    assert list(space.neighbours(space.smallest)) == []
    with pytest.raises(ValueError, match="do not go together"):
        space.check({"depth": 1, "width": 8})
    assert space.select({None}) is space
    with pytest.raises(ValueError, match="cannot be split by task"):
        space.select(set())


def test_sampling_an_almost_empty_space_ends() -> None:
    axes = tuple(Axis(f"a{i}", (0, 1)) for i in range(40))
    space = Space(axes, valid=lambda subnet: len(set(subnet.values())) == 1)
    with pytest.raises(ValueError, match="no valid subnet in 10000 draws"):
        space.sample(Random(0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Axis("width", ()), "distinct values"),
        (lambda: Axis("width", (1, 1)), "distinct values"),
        (lambda: Space((Axis("a", (1,)), Axis("a", (2,)))), "axis names repeat"),
        (lambda: Space((Axis("a", (1, 2)),), lambda s: s["a"] == 1), "largest subnet is not"),
    ],
    ids=["no-value", "repeated-value", "repeated-axis", "largest-invalid"],
)
def test_ill_formed_axes_and_spaces_are_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=message):
        build()
