"""A batch of rows with different plans gives each row what it would get alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

import pytest
import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import Cost, Plan, Step
from models.nn.ragged import Ragged, Value
from models.run.execution import NotFiniteError, StoppedError, never
from models.run.jobs import Done, Job
from tests.tiny import tiny_model
from tests.tiny_text import ARCHITECTURES, tiny_exits, token_rows


class Recorder(TorchBackend):
    """Notes the key of every step that runs, and on how many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, int]] = []

    def run_chain(
        self, steps: Sequence[Step], values: Mapping[str, Value], stop: Callable[[], bool] = never
    ) -> Value:
        result = super().run_chain(steps, values, stop)
        self.calls += [(step.key, len(result)) for step in steps]
        return result


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_mixed_subnets_and_lengths_in_one_batch_equal_single_runs(architecture: str) -> None:
    model, backend = tiny_exits(architecture, projection=12, dims=(4, 12)), TorchBackend()
    rng = Random(0)
    plans = [model.plan(model.space.sample(rng), (9,)) for _ in range(12)]
    rows = token_rows([rng.randint(1, 9) for _ in range(30)])
    jobs = [Job(rng.choice(plans), i) for i in range(len(rows))]
    found = dict(
        pair
        for done in backend.execute(jobs, rows, lambda items: {"tokens": Ragged.pack(items)})
        for pair in done
    )
    assert sorted(found) == list(range(len(rows)))
    for i, job in enumerate(jobs):
        alone = backend.run(job.plan, {"tokens": Ragged.pack([rows[i]])})
        done = found[i]
        assert isinstance(done, Done)
        for path, value in alone.items():
            torch.testing.assert_close(done.outputs[path], value[0], atol=1e-5, rtol=0)


def test_images_with_decoders_of_their_own_equal_single_runs_and_share_the_encoder() -> None:
    model, backend = tiny_model(), Recorder()
    backend.prepare(model)
    space = model.space
    plans = [
        model.plan(space.largest | {axis.name: axis.values[0]}, model.input.shape)
        for axis in space.axes
        if axis.task is not None
    ]
    images = list(torch.randn(6, *model.input.shape))
    jobs = [Job(plans[i % len(plans)], i) for i in range(6)]
    found = collect(backend, jobs, images)
    shared = [n for key, n in backend.calls if key == plans[0][0].key]
    assert shared == [6]
    for i, job in enumerate(jobs):
        for path, value in backend.run(job.plan, {"image": images[i][None]}).items():
            torch.testing.assert_close(found[i].outputs[path], value[0], atol=1e-5, rtol=0)


def collect(backend: TorchBackend, jobs: Sequence[Job], items: Sequence[Tensor]) -> dict[int, Done]:
    found: dict[int, Done] = {}
    for answered in backend.execute(jobs, items, lambda rows: {"image": torch.stack(list(rows))}):
        for i, done in answered:
            assert isinstance(done, Done)
            assert i not in found
            found[i] = done
    return found


def chain_of_exits(num_layers: int) -> tuple[list[Plan], list[Step]]:
    """Plans that add 1 per layer and leave at each depth."""
    layers: list[Step] = []
    plans: list[Plan] = []
    for depth in range(1, num_layers + 1):
        after = layers[-1] if layers else None
        takes = ("h",) if layers else ("image",)
        layers.append(Step(f"layer{depth}", lambda x: x + 1, Cost(), after, takes, "h"))
        leave = Step(f"exit{depth}", lambda x: 10 * x, Cost(), layers[-1], ("h",), "answer")
        plans.append((*layers, leave))
    return plans, layers


def test_rows_leave_at_their_own_exit_and_are_answered_before_deeper_layers_run() -> None:
    plans, _ = chain_of_exits(3)
    backend = Recorder()
    items = [torch.tensor([float(i)]) for i in range(5)]
    jobs = [Job(plans[depth], i) for i, depth in enumerate((2, 0, 1, 0, 2))]
    order, calls_at = [], []
    for answered in backend.execute(jobs, items, lambda rows: {"image": torch.stack(list(rows))}):
        for i, done in answered:
            assert isinstance(done, Done)
            (value,) = done.outputs.values()
            assert float(value) == 10 * (i + 1 + (2, 0, 1, 0, 2)[i])
            order.append(i)
            calls_at.append(len(backend.calls))
    assert order == [1, 3, 2, 0, 4]
    assert calls_at == [2, 2, 4, 6, 6]
    assert backend.calls == [
        ("layer1", 5), ("exit1", 2), ("layer2", 3), ("exit2", 1), ("layer3", 2), ("exit3", 2),
    ]  # fmt: skip


def test_jobs_may_share_a_row() -> None:
    plans, _ = chain_of_exits(2)
    backend = Recorder()
    jobs = [Job(plans[0], 0), Job(plans[1], 0), Job(plans[1], 1), Job(plans[1], 0)]
    found = collect(backend, jobs, [torch.tensor([5.0]), torch.tensor([7.0])])
    assert [float(next(iter(found[i].outputs.values()))) for i in range(4)] == [60, 70, 90, 70]
    assert ("layer1", 2) in backend.calls
    assert ("layer2", 2) in backend.calls


def test_a_failing_step_fails_those_who_take_it_and_nobody_else() -> None:
    plans, layers = chain_of_exits(2)

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("broken")

    broken = Step("broken", fail, Cost(), layers[0], ("h",), "answer")
    jobs = [Job((layers[0], broken), 0), Job(plans[1], 1), Job((layers[0], broken), 2)]
    items = [torch.tensor([float(i)]) for i in range(3)]
    backend = TorchBackend()
    found = dict(
        pair
        for done in backend.execute(jobs, items, lambda rows: {"image": torch.stack(list(rows))})
        for pair in done
    )
    assert isinstance(found[0], RuntimeError)
    assert isinstance(found[2], RuntimeError)
    assert isinstance(found[1], Done)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_answer_that_is_not_finite_fails_its_own_row_and_no_other(value: float) -> None:
    model = tiny_model()
    plan = model.plan(model.space.largest, model.input.shape)
    images = [torch.zeros(3, 16, 16), torch.full((3, 16, 16), value), torch.ones(3, 16, 16)]
    jobs = [Job(plan, i) for i in range(3)]
    found: dict[int, Done | Exception] = {}
    for done in TorchBackend().execute(jobs, images, model.input.collate):
        for i, one in done:
            assert i not in found
            found[i] = one
    assert isinstance(found[1], NotFiniteError)
    assert str(found[1]) == "task 'fish': the answer is not finite"
    for i in (0, 2):
        one = found[i]
        assert isinstance(one, Done)
        assert all(output.isfinite().all() for output in one.outputs.values())


def test_a_run_that_nobody_waits_for_stops_between_steps() -> None:
    plans, _ = chain_of_exits(3)
    backend, asked = Recorder(), iter([False, False, True])
    run = backend.execute(
        [Job(plans[2], 0)],
        [torch.zeros(1)],
        lambda rows: {"image": torch.stack(list(rows))},
        lambda: next(asked),
    )
    with pytest.raises(StoppedError):
        list(run)


def test_a_value_emitted_inside_a_chain_reaches_whoever_takes_it_later() -> None:
    first = Step("first", lambda x: x + 1, Cost(), None, ("image",), "early")
    second = Step("second", lambda x: 2 * x, Cost(), first, ("early",), "h")
    ends = [Step(name, lambda e, h: e + h, Cost(), second, ("early", "h"), name) for name in "ab"]
    found = TorchBackend().run([first, second, *ends], {"image": torch.tensor([3.0])})
    assert [float(value) for value in found.values()] == [12.0, 12.0]


def test_jobs_that_start_at_different_steps_are_refused() -> None:
    plans, layers = chain_of_exits(2)
    jobs = [Job(plans[0], 0), Job(plans[1][1:], 1, resume=layers[0].path)]
    with pytest.raises(ValueError, match="same step"):
        list(TorchBackend().execute(jobs, [torch.zeros(1)] * 2, lambda rows: {}))
