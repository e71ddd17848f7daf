from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

import models.train.dense as recipe_module
from models.families.dense import Dense
from models.train.dense import DenseRecipe, draw, mirrored, train_dense, train_step
from models.train.maps import scale_of
from models.train.vision import UNKNOWN, VOID, Pictures
from tests.tiny_dense import TASKS, tiny_dense

PARTS, DEPTH, NORMALS, PLACE = TASKS
RECIPE = DenseRecipe(steps=8, batch_size=4, learning_rate=1e-2, ema=0.5)


def trainable() -> Dense:
    return copy.deepcopy(tiny_dense()).train().requires_grad_(True)


def made_up(images: int = 16) -> Pictures:
    """Images whose colour says all; of each second one only the parts are known."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.randint(0, 3, (images, 12, 18), generator=generator)
    pixels = (torch.nn.functional.one_hot(parts, 3).movedim(-1, 1) * 200).to(torch.uint8)
    depth = 1 + parts[:, None].float()
    normals = torch.nn.functional.one_hot(parts, 3).movedim(-1, 1).float()
    place = parts[:, 0, 0].clone()
    depth[1::2], normals[1::2], place[1::2] = torch.nan, torch.nan, UNKNOWN
    return Pictures(
        pixels,
        {"parts": parts.to(torch.uint8), "depth": depth, "normals": normals, "place": place},
    )


def loss_of(model: Dense, data: Pictures, ci_kd: float = 0.0) -> float:
    scales = {name: scale_of(task, made_up().truth[name]) for name, task in model.tasks.items()}
    images = model.config.input.normalise(data.pixels)
    recipe = replace(RECIPE, ci_kd=ci_kd, random_subnets=0, label_smoothing=0)
    return train_step(model, images, data.truth, scales, recipe, Random(0))


def test_training_lowers_the_loss_where_only_some_is_known(tmp_path: Path) -> None:
    model, data = trainable(), made_up()
    before = loss_of(copy.deepcopy(model), data)
    average = train_dense(model, data, replace(RECIPE, steps=25, learning_rate=2e-2), tmp_path)
    assert loss_of(copy.deepcopy(average).requires_grad_(True), data) < 0.7 * before


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made_up()
    monkeypatch.setattr(recipe_module, "_SAVE_EVERY", 4)
    whole = train_dense(trainable(), data, RECIPE, tmp_path / "whole")
    calls, step = 0, recipe_module.train_step

    def interrupted(*args: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return step(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(recipe_module, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_dense(trainable(), data, RECIPE, tmp_path / "cut")
    resumed = train_dense(trainable(), data, RECIPE, tmp_path / "cut")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    with pytest.raises(ValueError, match="another recipe"):
        train_dense(trainable(), data, replace(RECIPE, seed=1), tmp_path / "cut")


def test_what_is_not_known_gives_no_gradient() -> None:
    data = made_up(4)
    unknown = {
        name: torch.full_like(one, VOID if name == "parts" else UNKNOWN)
        if not one.is_floating_point()
        else torch.full_like(one, torch.nan)
        for name, one in data.truth.items()
    }
    for task in data.truth:
        model = trainable()
        loss_of(model, Pictures(data.pixels, {**unknown, task: data.truth[task]}))
        for name, decoder in zip(model.tasks, model.decoders, strict=True):
            moved = [p.grad is not None and bool(p.grad.any()) for p in decoder.parameters()]
            assert any(moved) == (name == task)
    model = trainable()
    loss_of(model, Pictures(data.pixels, unknown))
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_ci_kd_draws_the_narrow_encoder_to_the_wide_one_and_not_the_other_way() -> None:
    data = made_up()
    with_it, without = trainable(), trainable()
    loss_of(with_it, data, 10.0)
    loss_of(without, data, 0.0)
    grads = [
        [stage.blocks[0].conv2.weight.grad for stage in one.stages if len(stage.blocks)]  # type: ignore[index,arg-type,union-attr]
        for one in (with_it, without)
    ]
    for one, other in zip(*grads, strict=True):
        assert isinstance(one, torch.Tensor)
        assert (one != other)[:8].any()  # channels of the narrow one
        torch.testing.assert_close(one[8:], other[8:])


def test_a_mirror_turns_directions_too() -> None:
    data = made_up(4)
    turned = torch.tensor([True, False, False, False])
    normals = mirrored(NORMALS, data.truth["normals"], turned)
    torch.testing.assert_close(normals[0, 1:], data.truth["normals"][0, 1:].flip(-1))
    torch.testing.assert_close(normals[0, 0], -data.truth["normals"][0, 0].flip(-1))
    torch.testing.assert_close(normals[2], data.truth["normals"][2])
    assert mirrored(PLACE, data.truth["place"], turned) is data.truth["place"]
    batch = draw(data, tiny_dense().tasks, replace(RECIPE, brightness=0), Random(0))
    shown = batch.pixels.argmax(dim=1)
    known = batch.truth["parts"] != VOID
    assert (shown == batch.truth["parts"])[known].all()  # both were turned alike
