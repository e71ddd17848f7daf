from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.core import Cost, Plan, Shapes, Step, distinct, plan_cost, shared_cost
from models.space import Axis, Space, Subnet
from models.tasks import Task


class Chain:
    """A toy family: `depth` layers of one width, then one head per task."""

    name = "chain"
    tasks: Mapping[str, Task] = {
        name: Task(name, "classes", ("no", "yes")) for name in ("left", "right")
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

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        wanted = [task for task in self.tasks if tasks is None or task in tasks]
        subnet = self.space.select({None, *wanted}).check(subnet)
        (length,) = shapes["x"]
        width = int(subnet["width"])
        x: Step | str = "x"
        for layer in range(int(subnet["depth"])):
            x = Step(("layer", layer, width), lambda x: x + 1, (x,), Cost(width * length))
        answers = {}
        for task in wanted:
            own = int(subnet[f"{task}.width"])
            answers[task] = Step((task, own), lambda x: x * 2, (x,), Cost(width * own))
        return Plan(answers)


SHAPES = {"x": (3,)}
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
def test_plan_cost_is_the_sum_of_trunk_and_heads(chain: Chain, seed: int) -> None:
    subnet = draw(chain, seed)
    depth, width = int(subnet["depth"]), int(subnet["width"])
    heads = int(subnet["left.width"]) + int(subnet["right.width"])
    plan = chain.plan(subnet, SHAPES)
    assert plan.cost == Cost(3 * depth * width + width * heads)
    assert plan.cost.flops == 2 * plan.cost.macs


@given(chains, st.integers(), st.integers())
def test_two_plans_together_have_what_they_share_once(chain: Chain, one: int, two: int) -> None:
    plans = [chain.plan(draw(chain, seed), SHAPES) for seed in (one, two)]
    both = distinct([*plans[0].answers.values(), *plans[1].answers.values()])
    identities = [step.identity for step in both]
    assert set(identities) == plans[0].identities | plans[1].identities
    assert len(both) == len(set(identities))
    assert len(both) == sum(map(len, plans)) - len(plans[0].identities & plans[1].identities)
    placed: set[bytes] = set()
    for step in both:
        assert placed.issuperset(operand.identity for operand in step.operands)
        placed.add(step.identity)
    contents = {"x": "same"}
    assert shared_cost([(plan, contents) for plan in plans]) == plan_cost(both)
    apart = shared_cost([(plan, {"x": i}) for i, plan in enumerate(plans)])
    assert apart == plans[0].cost + plans[1].cost


def test_a_task_that_is_not_asked_for_has_no_steps_and_no_axes() -> None:
    chain = Chain((1, 2), (4, 8))
    subnet = chain.space.select({None, "left"}).largest
    plan = chain.plan(subnet, SHAPES, ["left"])
    assert set(subnet) == {"depth", "width", "left.width"}
    assert [step.key for step in plan] == [("layer", 0, 8), ("layer", 1, 8), ("left", 8)]
    assert list(plan.answers) == ["left"]


def step(key: Hashable, *takes: Step | str, macs: int = 1) -> Step:
    return Step(key, lambda *values: values, takes, Cost(macs))


def test_a_value_is_known_by_its_function_and_what_it_takes_and_by_nothing_else() -> None:
    one = step("f", step("g", "a"), "b")
    again = Step("f", print, (Step("g", print, ("a",), Cost(9)), "b"), raw=print, timed_as="h")
    assert one.identity == again.identity
    others = [
        step("f", "b", step("g", "a")),
        step("f", step("g", "b"), "b"),
        step("f", step("g", "a")),
        step("f", step("g", "a"), "b", "b"),
        step("h", step("g", "a"), "b"),
        step("f", step("g", "ab")),
        step("f", "a", "b"),
        step("f", "ab"),
        step(("f",), step("g", "a"), "b"),
    ]
    assert len({one.identity, *(other.identity for other in others)}) == 1 + len(others)
    assert one.inputs == ("a", "b")


def test_equal_values_of_a_plan_are_one_step() -> None:
    plan = Plan({"sum": step("add", step("f", "a"), step("f", "a")), "f": step("f", "a")})
    assert [one.key for one in plan] == ["f", "add"]
    assert plan.answers["f"] is plan.steps[0]
    assert plan.cost == Cost(2)


def test_a_long_plan_needs_no_deep_stack() -> None:
    end = step(0, "a")
    for i in range(1, 5000):
        end = step(i, end, "b")
    assert len(Plan({"task": end})) == 5000


def two_towers() -> tuple[Plan, dict[str, Step]]:
    """Return a plan in which query and document meet in each layer, and its steps by name."""
    q1 = step("q1", "query", macs=10)
    q2 = step("q2", q1, macs=20)
    d1 = step("d1", "document", q1, macs=3)
    d2 = step("d2", d1, q2, macs=4)
    score = step("score", d2, macs=1)
    named = {one.key: one for one in (q1, q2, d1, d2, score)}
    return Plan({"score": score, "query": step("pool", q2)}), named  # type: ignore[return-value]


def test_what_many_items_may_share_is_the_inner_values_of_fewer_inputs() -> None:
    plan, named = two_towers()
    assert plan.inputs == ("document", "query")
    assert plan.joints == (named["q1"], named["q2"])


def test_the_cost_of_items_that_share_a_query_counts_it_once() -> None:
    plan, _ = two_towers()
    items = [(plan, {"query": 0, "document": i}) for i in range(20)]
    assert shared_cost(items) == Cost(10 + 20 + 1 + 20 * (3 + 4 + 1))
    assert shared_cost([*items, items[0]]) == shared_cost(items)
    assert shared_cost(items[:1]) == plan.cost == Cost(39)


def test_a_plan_goes_on_from_the_last_values_that_another_has_too() -> None:
    plan, named = two_towers()
    shallow = Plan({"score": step("early", named["d1"])})
    assert set(plan.last_common(shallow)) == {named["q1"], named["d1"]}
    known = {one.identity for one in plan.last_common(shallow)}
    assert [one.key for one in plan.rest(known)] == ["q2", "d2", "score", "pool"]
    assert plan.last_common(plan) == ()


def test_only_answers_that_were_divided_have_a_raw_form() -> None:
    vector = Step("exit", print, (step("layer", "a"),), Cost(5), raw=repr)
    plan = Plan({"vector": vector, "logits": step("head", "a")})
    raw = plan.with_raw()
    assert raw.answers["logits"] is plan.answers["logits"]
    changed = raw.answers["vector"]
    assert (changed.run, changed.cost, changed.timed_as) == (repr, Cost(5), "exit")
    assert changed.takes == vector.takes
    assert changed.identity != vector.identity


@pytest.mark.parametrize(
    ("build", "message"),
    [(lambda: step("f"), "step 'f' takes nothing"), (lambda: Plan({}), "at least one answer")],
    ids=["step", "plan"],
)
def test_what_computes_nothing_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


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
    with pytest.raises(ValueError, match="do not go together"):
        space.check({"depth": 1, "width": 8})
    assert space.select({None}) is space
    assert space.select({"colour"}).axes == ()
    of_task = Space((*space.axes, Axis("colours", (2, 4), task="colour")), space.valid)
    with pytest.raises(ValueError, match="cannot be split by task"):
        of_task.select({"colour"})


def test_a_space_may_list_its_only_subnets() -> None:
    axes = (Axis("depth", (1, 2)), Axis("width", (4, 8)))
    ends = (Subnet({"depth": 1, "width": 4}), Subnet({"depth": 2, "width": 8}))
    space = Space(axes, listed=ends)
    assert tuple(space) == ends
    assert {space.sample(Random(seed)) for seed in range(40)} == set(ends)
    with pytest.raises(ValueError, match="do not go together"):
        space.check({"depth": 1, "width": 8})
    with pytest.raises(ValueError, match="the largest subnet is not valid"):
        Space(axes, listed=ends[:1])


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


def test_a_step_is_shown_by_its_key() -> None:
    assert repr(Step(("head", 4), abs, ("x",))) == "Step(('head', 4))"
