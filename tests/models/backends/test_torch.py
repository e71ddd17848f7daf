from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import Plan, Step
from tests.tiny import tiny_model

SHAPES = {"image": (3, 16, 16)}


def test_plans_run_together_give_the_answers_of_separate_runs() -> None:
    model, backend, rng = tiny_model(), TorchBackend(), Random(0)
    backend.prepare(model)
    images = {"image": torch.randn(3, *SHAPES["image"])}
    plans = [model.plan(model.space.sample(rng), SHAPES) for _ in range(8)]
    for plan, together in zip(plans, backend.run_all(plans, images), strict=True):
        alone = backend.run(plan, images)
        assert together.keys() == alone.keys() == model.tasks.keys()
        for task, logits in alone.items():
            torch.testing.assert_close(together[task], logits, atol=1e-6, rtol=0)


def test_a_step_sees_what_it_takes_and_each_value_is_computed_once() -> None:
    calls: list[str] = []

    def step(name: str, *takes: Step | str) -> Step:
        def add(*values: Tensor) -> Tensor:
            calls.append(name)
            return torch.stack(values).sum(0)

        return Step(name, add, takes)

    root = step("root", "x")
    left = step("left", root, "x")
    inner = step("inner", root, root)
    right = step("right", inner, "x")
    both = Plan({"left": left, "right": right})
    inputs = {"x": torch.ones(1)}
    answers, again = TorchBackend().run_all([both, Plan({"again": right})], inputs)
    assert {task: float(value) for task, value in answers.items()} == {"left": 2.0, "right": 3.0}
    assert float(again["again"]) == 3.0
    assert sorted(calls) == ["inner", "left", "right", "root"]


def test_an_input_that_is_not_there_is_an_error() -> None:
    plan = Plan({"task": Step("root", torch.clone, ("y",))})
    with pytest.raises(KeyError, match="y"):
        TorchBackend().run(plan, {"x": torch.ones(1)})
