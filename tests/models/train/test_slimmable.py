from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

import models.train.slimmable as recipe_module
from models.families.slimmable import Slimmable
from models.space import Subnet
from models.train.cifar100 import Images
from models.train.slimmable import (
    Recipe,
    augment,
    auxiliary_head,
    sandwich,
    train,
    train_step,
)
from tests.tiny import tiny_model

RECIPE = Recipe(epochs=3, batch_size=16, learning_rate=3e-3, cutout=4, crop_padding=2, ema=0.9)


def trainable() -> Slimmable:
    return copy.deepcopy(tiny_model()).train().requires_grad_(True)


def made_up_images(n: int = 64) -> Images:
    """Images whose class shows as a colour, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    task = torch.arange(n) % 3
    label = torch.randint(0, 3, (n,), generator=generator)
    pixels = torch.randint(0, 60, (n, 3, 16, 16), generator=generator, dtype=torch.uint8)
    for i in range(n):
        pixels[i, int(label[i])] += 180
    return Images(pixels, task, label)


def test_sandwich_has_the_largest_the_smallest_and_some_between() -> None:
    model = trainable()
    subnets = sandwich(model, Recipe(random_subnets=3), Random(0))
    assert subnets[0] == model.space.largest
    assert subnets[1] == model.space.smallest
    assert len(subnets) == 5
    only = Subnet(dict.fromkeys(model.space.largest, 0.5))
    assert sandwich(model, Recipe(only=only), Random(0)) == [only]


def test_training_lowers_the_loss_of_the_smallest_subnet_too(tmp_path: Path) -> None:
    model, images = trainable(), made_up_images()
    before = loss_of_smallest(model, images)
    recipe = replace(RECIPE, epochs=10, learning_rate=1e-2, random_subnets=0, cutout=0, ema=0.5)
    average = train(model, images, recipe, tmp_path)
    assert loss_of_smallest(average, images) < 0.8 * before


def loss_of_smallest(model: Slimmable, images: Images) -> float:
    order = torch.argsort(images.task, stable=True)
    batch = Images(
        model.config.input.normalise(images.pixels[order]), images.task[order], images.label[order]
    )
    clone = copy.deepcopy(model).requires_grad_(True)
    recipe = Recipe(only=model.space.smallest)
    return train_step(clone, auxiliary_head(clone), batch, recipe, Random(0))


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = made_up_images()
    whole = train(trainable(), images, RECIPE, tmp_path / "whole")

    calls = 0

    def stop_in_second_epoch(*args: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return train_step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(recipe_module, "train_step", stop_in_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(trainable(), images, RECIPE, tmp_path / "cut")
    monkeypatch.undo()
    resumed = train(trainable(), images, RECIPE, tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, atol=1e-6, rtol=0)
    assert len((tmp_path / "cut" / "train.jsonl").read_text().splitlines()) == RECIPE.epochs


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    images = made_up_images(16)
    train(trainable(), images, Recipe(epochs=1, batch_size=16), tmp_path)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        train(trainable(), images, Recipe(epochs=2, batch_size=16), tmp_path)


def test_a_static_network_leaves_the_weights_beyond_its_widths_alone(tmp_path: Path) -> None:
    model = trainable()
    only = Subnet(dict.fromkeys(model.space.largest, 0.5))
    before = model.stem.weight.detach().clone()
    recipe = Recipe(epochs=1, batch_size=16, only=only, weight_decay=0.0, crop_padding=2)
    train(model, made_up_images(32), recipe, tmp_path)
    assert not torch.equal(model.stem.weight[:16], before[:16])
    assert torch.equal(model.stem.weight[16:], before[16:])


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_auxiliary_classifier_tells_apart_the_classes_of_all_tasks(weight: float) -> None:
    model = trainable()
    head = auxiliary_head(model)
    sizes = [len(task.labels) for task in model.tasks.values()]
    assert head.out_features == sum(sizes)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    # One image, of the second task's class 1: only that class's bias is pushed up.
    batch = Images(torch.randn(1, *model.config.input.shape), torch.tensor([1]), torch.tensor([1]))
    recipe = Recipe(auxiliary=weight, label_smoothing=0.0, random_subnets=0)
    train_step(model, head, batch, recipe, Random(0))
    if weight:
        assert head.bias.grad is not None
        assert (head.bias.grad < 0).nonzero().flatten().tolist() == [sizes[0] + 1]
    else:
        assert head.bias.grad is None


def test_augmentation_crops_mirrors_and_blanks_and_repeats_with_its_seed() -> None:
    pixels = torch.arange(3 * 16 * 16, dtype=torch.int64).view(1, 3, 16, 16) % 251
    batch = pixels.to(torch.uint8).expand(8, -1, -1, -1).contiguous()
    one = augment(batch, 2, 4, torch.Generator().manual_seed(5))
    two = augment(batch, 2, 4, torch.Generator().manual_seed(5))
    assert one.shape == batch.shape
    assert one.dtype == torch.uint8
    assert torch.equal(one, two)
    assert len({bytes(image.numpy().tobytes()) for image in one}) > 4
    assert (one == 128).flatten(1).sum(1).min() >= 3 * 2 * 2
    plain = augment(batch, 0, 0, torch.Generator().manual_seed(5))
    for image in plain:
        assert torch.equal(image, batch[0]) or torch.equal(image, batch[0].flip(2))
