"""What only the slimmable family promises; `tests.conformance` has what all families do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
import torch

from models import checkpoint
from models.backends.torch import TorchBackend
from models.core import Shapes
from models.families.slimmable import SlimmableConfig, axis_of_stage, axis_of_task
from models.inputs.image import ImageInput
from models.space import Subnet
from models.variants import loaded
from tests.conformance.fixtures.slimmable import CutCopy
from tests.tiny import tiny_model

ZOO = Path(checkpoint.__file__).parent / "zoo" / "cifar100-mtl"
SHAPES = {"image": (3, 16, 16)}


def test_asking_for_some_tasks_runs_only_those() -> None:
    model = tiny_model()
    subnet = model.space.select({None, "flowers"}).largest
    plan = model.plan(subnet, SHAPES, ["flowers"])
    assert [step.key for step in plan] == [
        ("stage", 1, 32), ("stage", 2, 32), ("decoder", "flowers", 32),
    ]  # fmt: skip


@pytest.mark.slow
def test_shipped_model_equals_its_cut_copies() -> None:
    model = checkpoint.load(ZOO).model
    rng, backend = Random(0), TorchBackend()
    shapes = {"image": model.config.input.shape}
    images = torch.randn(2, *shapes["image"], generator=torch.Generator().manual_seed(1))
    given = loaded(model.space)  # copies are cut from the weights that are there
    uniform = [dict.fromkeys(model.space.largest, width) for width in model.config.widths]
    sample = [model.space.sample(rng) for _ in range(300)]
    for choices in (*uniform, *sample):
        subnet = Subnet({**choices, **given})
        answers = backend.run(model.plan(subnet, shapes), {"image": images})
        with torch.inference_mode():
            expected = CutCopy(model, subnet).eval()(images)
        assert answers.keys() == expected.keys()
        for task, logits in expected.items():
            torch.testing.assert_close(answers[task], logits, atol=1e-5, rtol=0)


def test_decoder_costs_more_after_a_wider_encoder() -> None:
    model = tiny_model()
    narrow = model.space.largest | {axis_of_stage(2): 0.25}
    costs = [
        model.plan(subnet, SHAPES).answers["people"].cost.macs
        for subnet in (narrow, model.space.largest)
    ]
    assert costs[0] < costs[1]


def test_equal_encoders_are_shared_and_unequal_decoders_are_not() -> None:
    model = tiny_model()
    one = model.plan(model.space.largest, SHAPES)
    two = model.plan(model.space.largest | {axis_of_task("fish"): 0.5}, SHAPES)
    shared = one.identities & two.identities
    assert {step.key[0] for step in one if step.identity in shared} == {"stage", "decoder"}  # type: ignore[index]
    assert [step.key for step in two if step.identity not in shared] == [("decoder", "fish", 16)]


@pytest.mark.parametrize(
    ("choices", "shapes", "tasks", "message"),
    [
        ({}, SHAPES, ["birds"], "unknown task 'birds'; one of"),
        ({}, {"image": (3, 8, 8)}, None, r"shapes={'image': \(3, 8, 8\)} must be"),
        ({"encoder.stage1": 0.3}, SHAPES, None, "encoder.stage1=0.3 is not allowed"),
        ({}, SHAPES, ["fish"], "unknown axis 'decoder.flowers'"),
    ],
    ids=["task", "shape", "width", "axis-of-another-task"],
)
def test_plan_refuses_what_the_model_does_not_have(
    choices: dict[str, float], shapes: Shapes, tasks: list[str] | None, message: str
) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        model.plan(model.space.largest | choices, shapes, tasks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": (32,)}, "one entry per stage, not 1, 4 and 4"),
        ({"widths": (1.0, 0.5)}, "must ascend and end at 1"),
        ({"widths": (0.5,)}, "must ascend and end at 1"),
        ({"tasks": {}}, "tasks is empty"),
        ({"tasks": {"fish": ("ray", "ray")}}, r"tasks\.fish=.* distinct labels"),
        ({"decoder_channels": 24}, "24 channels x width 0.25 is not a multiple of 8"),
    ],
    ids=["stages", "descending", "no-full-width", "no-tasks", "labels", "group-size"],
)
def test_impossible_architectures_are_refused(changes: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {
        "tasks": {"fish": ("ray", "shark")},
        "input": ImageInput(16, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    }
    with pytest.raises(ValueError, match=message):
        SlimmableConfig(**{**fields, **changes})  # type: ignore[arg-type]  # on purpose


def test_overlapping_calls_with_different_subnets_do_not_disturb_each_other() -> None:
    model, backend, rng = tiny_model(), TorchBackend(), Random(3)
    image = torch.randn(1, *SHAPES["image"])
    plans = [model.plan(model.space.sample(rng), SHAPES) for _ in range(64)]
    expected = [backend.run(plan, {"image": image}) for plan in plans]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda plan: backend.run(plan, {"image": image}), plans))
    for answer, want in zip(answers, expected, strict=True):
        for task, logits in want.items():
            torch.testing.assert_close(answer[task], logits, atol=1e-6, rtol=0)
