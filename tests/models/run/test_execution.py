"""A batch of items with different plans gives each what it would get alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest
import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import Plan, Step
from models.inputs import Given, Item
from models.nn.ragged import Ragged, Value
from models.run.chain import Chain
from models.run.execution import NotFiniteError, StoppedError, never
from models.run.jobs import Done, Job
from tests.tiny import tiny_model
from tests.tiny_text import ARCHITECTURES, collate, items_of, tiny_exits, token_rows
from tests.walking import done_of, results_of

SHAPES = {"image": (3, 16, 16)}


class Recorder(TorchBackend):
    """Notes the key of every step that runs, and on how many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, int]] = []

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        result = super().run_chain(chain, inputs, stop)
        self.calls += [(step.key, len(result)) for step in chain.steps]
        return result


def stack(name: str, values: Sequence[object]) -> Tensor:
    return torch.stack([value for value in values if isinstance(value, Tensor)])


def item(value: Tensor, digest: object) -> Item:
    return {"image": Given(value, digest, 0)}


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_mixed_subnets_and_lengths_in_one_batch_equal_single_runs(architecture: str) -> None:
    model, backend = tiny_exits(architecture, projection=12, dims=(4, 12)), TorchBackend()
    rng = Random(0)
    plans = [model.plan(model.space.sample(rng), {"text": (9,)}) for _ in range(12)]
    rows = token_rows([rng.randint(1, 9) for _ in range(30)])
    jobs = [Job(rng.choice(plans), one) for one in items_of(rows)]
    for row, job, done in zip(rows, jobs, done_of(backend, jobs, collate), strict=True):
        alone = backend.run(job.plan, {"text": Ragged.pack([row])})
        assert done.outputs.keys() == alone.keys()
        for task, value in alone.items():
            torch.testing.assert_close(done.outputs[task], value[0], atol=1e-5, rtol=0)


def test_images_with_decoders_of_their_own_equal_single_runs_and_share_the_encoder() -> None:
    model, backend = tiny_model(), Recorder()
    backend.prepare(model)
    space = model.space
    plans = [
        model.plan(space.largest | {axis.name: axis.values[0]}, SHAPES)
        for axis in space.axes
        if axis.task is not None
    ]
    images = list(torch.randn(6, *SHAPES["image"]))
    jobs = [Job(plans[i % len(plans)], item(image, i)) for i, image in enumerate(images)]
    found = done_of(backend, jobs, stack)
    shared = [n for key, n in backend.calls if key == plans[0].steps[0].key]
    assert shared == [6]
    for image, job, done in zip(images, jobs, found, strict=True):
        for task, value in backend.run(job.plan, {"image": image[None]}).items():
            torch.testing.assert_close(done.outputs[task], value[0], atol=1e-5, rtol=0)


def chain_of_exits(num_layers: int) -> tuple[list[Plan], list[Step]]:
    """Plans that add 1 per layer and leave at each depth."""
    layers: list[Step] = []
    plans: list[Plan] = []
    for depth in range(1, num_layers + 1):
        takes = (layers[-1] if layers else "image",)
        layers.append(Step(f"layer{depth}", lambda x: x + 1, takes))
        plans.append(Plan({"answer": Step(f"exit{depth}", lambda x: 10 * x, (layers[-1],))}))
    return plans, layers


def numbers(*values: float) -> list[Item]:
    return [item(torch.tensor([value]), value) for value in values]


def test_items_leave_at_their_own_exit_and_are_answered_before_deeper_layers_run() -> None:
    plans, _ = chain_of_exits(3)
    backend = Recorder()
    depths = (2, 0, 1, 0, 2)
    jobs = [Job(plans[d], one) for d, one in zip(depths, numbers(0, 1, 2, 3, 4), strict=True)]
    order, calls_at = [], []
    for answered in backend.execute(jobs, stack):
        for i, done in answered:
            assert isinstance(done, Done)
            assert float(done.outputs["answer"]) == 10 * (i + 1 + depths[i])
            order.append(i)
            calls_at.append(len(backend.calls))
    assert order == [1, 3, 2, 0, 4]
    assert calls_at == [2, 2, 4, 6, 6]
    assert backend.calls == [
        ("layer1", 5), ("exit1", 2), ("layer2", 3), ("exit2", 1), ("layer3", 2), ("exit3", 2),
    ]  # fmt: skip


def test_items_of_equal_content_are_computed_once() -> None:
    plans, _ = chain_of_exits(2)
    backend = Recorder()
    same, other = numbers(5, 7)
    again = item(torch.tensor([5.0]), 5)
    jobs = [Job(plans[0], same), Job(plans[1], again), Job(plans[1], other), Job(plans[1], same)]
    found = done_of(backend, jobs, stack)
    assert [float(done.outputs["answer"]) for done in found] == [60, 70, 90, 70]
    assert ("layer1", 2) in backend.calls
    assert ("layer2", 2) in backend.calls


def test_a_failing_step_fails_those_who_take_it_and_nobody_else() -> None:
    plans, layers = chain_of_exits(2)

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("broken")

    broken = Plan({"answer": Step("broken", fail, (layers[0],))})
    first, second, third = numbers(0, 1, 2)
    jobs = [Job(broken, first), Job(plans[1], second), Job(broken, third)]
    found = results_of(TorchBackend(), jobs, stack)
    assert isinstance(found[0], RuntimeError)
    assert isinstance(found[2], RuntimeError)
    assert isinstance(found[1], Done)


def test_an_input_that_cannot_be_put_together_fails_those_who_take_it() -> None:
    plans, _ = chain_of_exits(1)
    other = Plan({"answer": Step("other", lambda x: -x, ("text",))})

    def broken(name: str, values: Sequence[object]) -> Value:
        if name == "image":
            raise ValueError("these do not go together")
        return stack(name, values)

    (first,) = numbers(1)
    found = results_of(
        TorchBackend(), [Job(plans[0], first), Job(other, {"text": first["image"]})], broken
    )
    assert str(found[0]) == "these do not go together"
    assert isinstance(found[1], Done)


def test_a_step_that_gives_another_number_of_rows_fails_those_who_take_it() -> None:
    plans, layers = chain_of_exits(1)
    short = Plan({"answer": Step("short", lambda x: x[:1], (layers[0],))})
    first, second, third = numbers(1, 2, 3)
    jobs = [Job(short, first), Job(plans[0], second), Job(short, third)]
    found = results_of(TorchBackend(), jobs, stack)
    assert str(found[0]) == str(found[2]) == "2 rows gave 1 rows of short"
    assert isinstance(found[1], Done)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_answer_that_is_not_finite_fails_its_own_item_and_no_other(value: float) -> None:
    model = tiny_model()
    plan = model.plan(model.space.largest, SHAPES)
    images = [torch.zeros(3, 16, 16), torch.full((3, 16, 16), value), torch.ones(3, 16, 16)]
    jobs = [Job(plan, model.inputs.item({"image": image})) for image in images]
    found = results_of(TorchBackend(), jobs, model.inputs.collate)
    assert isinstance(found[1], NotFiniteError)
    assert str(found[1]) == "task 'fish': the answer is not finite"
    for i in (0, 2):
        one = found[i]
        assert isinstance(one, Done)
        assert all(output.isfinite().all() for output in one.outputs.values())


def test_a_score_that_is_not_finite_fails_its_own_item_and_no_other() -> None:
    plan = Plan({"score": Step("score", lambda x: 1 / x[:, 0], ("image",))})
    found = results_of(TorchBackend(), [Job(plan, one) for one in numbers(0, 2)], stack)
    assert isinstance(found[0], NotFiniteError)
    assert isinstance(found[1], Done)
    assert float(found[1].outputs["score"]) == 0.5


def test_a_run_that_nobody_waits_for_stops_between_steps() -> None:
    plans, _ = chain_of_exits(3)
    backend, asked = Recorder(), iter([False, False, True])
    run = backend.execute([Job(plans[2], numbers(0)[0])], stack, lambda: next(asked))
    with pytest.raises(StoppedError):
        list(run)


def test_a_value_inside_a_plan_reaches_whoever_takes_it_later() -> None:
    first = Step("first", lambda x: x + 1, ("image",))
    second = Step("second", lambda x: 2 * x, (first,))
    ends = {name: Step(name, lambda e, h: e + h, (first, second)) for name in "ab"}
    found = TorchBackend().run(Plan(ends), {"image": torch.tensor([3.0])})
    assert {name: float(value) for name, value in found.items()} == {"a": 12.0, "b": 12.0}


def test_items_that_go_on_from_a_known_value_run_beside_items_that_start_anew() -> None:
    plans, layers = chain_of_exits(3)
    backend = Recorder()
    known = {layers[1].identity: torch.tensor([100.0])}
    first, second, third = numbers(1, 2, 3)
    jobs = [Job(plans[2], first, known=known), Job(plans[2], second), Job(plans[1], third)]
    found = done_of(backend, jobs, stack)
    assert [float(done.outputs["answer"]) for done in found] == [1010.0, 50.0, 50.0]
    assert backend.calls == [
        ("layer1", 2), ("layer2", 2), ("exit2", 1), ("layer3", 2), ("exit3", 2),
    ]  # fmt: skip


def test_a_plan_whose_answers_are_all_known_runs_nothing() -> None:
    plans, _ = chain_of_exits(1)
    backend = Recorder()
    known = {plans[0].answers["answer"].identity: torch.tensor([4.0])}
    (done,) = done_of(backend, [Job(plans[0], numbers(1)[0], known=known)], stack)
    assert float(done.outputs["answer"]) == 4.0
    assert (backend.calls, done.macs) == ([], 0)


def test_chains_are_told_with_their_rows_their_tokens_and_their_time() -> None:
    model, backend = tiny_exits(), TorchBackend()
    plan = model.plan(model.space.largest | {"depth": 1}, {"text": (5,)})
    told: list[tuple[int, int, int, float]] = []
    times: Iterator[float] = iter(float(n * n) for n in range(100))
    jobs = [Job(plan, one) for one in items_of(token_rows((5, 3)))]
    list(
        backend.execute(
            jobs,
            collate,
            observe=lambda steps, rows, tokens, s: told.append((len(steps), rows, tokens, s)),
            clock=lambda: next(times),
        )
    )
    assert told == [(3, 2, 8, 1.0)]


def test_tokens_of_one_layout_count_once_however_many_values_have_it() -> None:
    told: list[int] = []
    first = Step("first", lambda x: x.replace(x.values + 1), ("text",))
    both = Step("both", lambda x, y: x.layout.mean(x.values + y.values), ("text", first))
    plan = Plan({"both": both, "first": Step("mean", lambda x: x.layout.mean(x.values), (first,))})
    rows = [torch.randn(length, 2) for length in (4, 2)]
    jobs = [Job(plan, {"text": Given(row, i, len(row))}) for i, row in enumerate(rows)]
    list(
        TorchBackend().execute(
            jobs, collate, observe=lambda steps, rows, tokens, s: told.append(tokens)
        )
    )
    assert told == [6, 6, 6]
