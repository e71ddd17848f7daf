from __future__ import annotations

from random import Random

import pytest
import torch

from models.backends.torch import TorchBackend
from models.core import Cost, Step, merge
from tests.tiny import tiny_model


def test_merged_plans_give_the_answers_of_separate_runs() -> None:
    model, backend, rng = tiny_model(), TorchBackend(), Random(0)
    backend.prepare(model)
    images = {"image": torch.randn(3, *model.input.shape)}
    plans = [model.plan(model.space.sample(rng), model.input.shape) for _ in range(8)]
    merged = backend.run(merge(plans).values(), images)
    for plan in plans:
        for path, logits in backend.run(plan, images).items():
            torch.testing.assert_close(merged[path], logits, atol=1e-6, rtol=0)


def test_a_step_sees_the_inputs_and_its_ancestors_and_each_path_runs_once() -> None:
    calls: list[str] = []

    def add(name: str, *values: torch.Tensor) -> torch.Tensor:
        calls.append(name)
        return torch.stack(values).sum(0)

    def step(name: str, after: Step | None, takes: tuple[str, ...], emits: str) -> Step:
        return Step(name, lambda *xs: add(name, *xs), Cost(), after, takes, emits)

    root = step("root", None, ("x",), "h")
    left = step("left", root, ("h", "x"), "left")
    inner = step("inner", root, ("h", "h"), "h")
    right = step("right", inner, ("h", "x"), "right")
    results = TorchBackend().run([root, left, inner, right], {"x": torch.ones(1)})
    assert {path: float(value) for path, value in results.items()} == {
        ("root", "left"): 2.0,
        ("root", "inner", "right"): 3.0,
    }
    assert calls == ["root", "left", "inner", "right"]


def test_a_value_nobody_emitted_is_an_error() -> None:
    step = Step("root", torch.clone, Cost(), None, ("y",), "h")
    with pytest.raises(KeyError, match="y"):
        TorchBackend().run([step], {"x": torch.ones(1)})
