from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import torch

from models.train.maps import scale_of
from models.train.modalities import (
    ModalityRecipe,
    answers,
    drawn_ranks,
    maps_of,
    train_modalities,
    train_step,
)
from models.train.vision import Pictures
from tests.conformance.fixtures.modalities import modalities
from tests.tiny_dense import TASKS
from tests.walking import answers_of

TASK_OF = {task.name: task for task in TASKS[:3]}


def made_up(images: int = 12) -> Pictures:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randint(0, 3, (images, 2, 3), generator=generator)
    parts = parts.repeat_interleave(4, 1).repeat_interleave(4, 2)
    pixels = (torch.nn.functional.one_hot(parts, 3).movedim(-1, 1) * 200).to(torch.uint8)
    depth = 1 + parts[:, None].float()
    depth[::2, :, :2] = torch.nan
    normals = torch.nn.functional.one_hot(parts, 3).movedim(-1, 1).float()
    return Pictures(pixels, {"parts": parts.to(torch.uint8), "depth": depth, "normals": normals})


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    data, model = made_up(), modalities().train().requires_grad_(True)
    recipe = ModalityRecipe(steps=25, batch_size=8, learning_rate=1e-2, ema=0.5, leave_out=False)
    scales = {name: scale_of(task, data.truth[name]) for name, task in model.tasks.items()}

    def loss() -> float:
        return train_step(model, data, scales, replace(recipe, brightness=0), Random(1))

    before = loss()
    model.zero_grad()
    train_modalities(model, data, TASK_OF, recipe, tmp_path)
    assert loss() < 0.85 * before


def test_the_first_tokens_in_training_are_those_of_the_plan() -> None:
    data, model = made_up(3), modalities()
    maps = maps_of(model, data)
    assert maps["depth"].isfinite().all()
    subnet = model.space.smallest | {"inputs": "image+depth"}
    first = {name: torch.arange(model.kept(subnet)) for name in maps}
    plan = model.plan(subnet, model.inputs.plan_shapes())
    expected, found = answers_of(plan, maps), answers(model, maps, first, subnet)
    for task, one in expected.items():
        torch.testing.assert_close(found[task], one)
    ranks = [drawn_ranks(model, subnet, Random(seed))["image"].tolist() for seed in range(9)]
    assert first["image"].tolist() in ranks
    assert len({tuple(own) for own in ranks}) > 2
