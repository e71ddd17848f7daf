"""Recipe for the slimmable family: sandwich rule, task losses on every subnet, CI-KD.

Each step trains the largest subnet, the smallest and some drawn at random on the same images, with
one optimiser step on the summed gradients.

Sources: Yu and Huang 2019, Universally Slimmable Networks, arXiv 1903.05134, section 3.2, for the
sandwich rule; Aich et al. 2023, arXiv 2308.11744, for CI-KD.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.families.slimmable import Slimmable
from models.nn.layers import SlimLinear
from models.space import Subnet
from models.train.cifar100 import Images
from models.train.losses import configuration_invariance, task_loss
from models.train.run import LOG_FILE, RunState, cosine_schedule, sandwich_of, update_average


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one run.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Images per step.
        learning_rate: Peak, reached after the warm-up, then a cosine down to zero.
        warmup: Fraction of the steps.
        weight_decay: Of AdamW, on convolution and linear weights only.
        label_smoothing: 0..1.
        random_subnets: Subnets drawn per step beside the largest and the smallest.
        ci_kd: Weight of the configuration-invariance loss; 0 leaves it out.
        auxiliary: Weight of a classifier over the classes of all tasks together, on the encoder's
            pooled feature. It is used in training only; 0 leaves it out.
        ema: Decay of the averaged weights, which are what is kept.
        crop_padding: Pixels of reflection around the image for random crops.
        cutout: Side of the square blanked at a random place, pixels; 0 for none.
        only: Train this one subnet and nothing else: a static network.
        seed: For weights, order, augmentation and the subnets drawn.
    """

    epochs: int = 18
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    random_subnets: int = 1
    ci_kd: float = 0.1
    auxiliary: float = 0.5
    ema: float = 0.998
    crop_padding: int = 4
    cutout: int = 0
    only: Subnet | None = None
    seed: int = 0


def train(model: Slimmable, data: Images, recipe: Recipe, out: Path) -> Slimmable:
    """Train ``model`` in place and return the averaged copy.

    The state is written after every epoch; called again with the same arguments, an interrupted
    run goes on where it stopped, with the same draws as an uninterrupted one.

    Args:
        model: Freshly built, on the device to train on.
        data: Training split.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; made if needed.

    Raises:
        ValueError: If the folder holds the state of a run with another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(model).requires_grad_(False)
    auxiliary = auxiliary_head(model)
    optimizer = _optimizer(nn.ModuleList([model, auxiliary]), recipe)
    parts = {"model": model, "average": average, "auxiliary": auxiliary, "optimizer": optimizer}
    state = RunState(parts, recipe_json(recipe))
    steps_per_epoch = len(data) // recipe.batch_size
    total = recipe.epochs * steps_per_epoch
    first = state.resume(out)
    progress = tqdm(total=total, initial=first * steps_per_epoch, unit="step", mininterval=5)
    for epoch in range(first, recipe.epochs):
        # Seeded by the epoch, so that a resumed run draws what an uninterrupted one would.
        generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
        rng = Random(f"{recipe.seed}/{epoch}")
        losses, started = [], time.monotonic()
        model.train()
        for i, batch in enumerate(_batches(data, recipe, generator, model)):
            step = epoch * steps_per_epoch + i
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * cosine_schedule(step / total, recipe.warmup)
            losses.append(train_step(model, auxiliary, batch, recipe, rng))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            update_average(average, model, min(recipe.ema, (1 + step) / (10 + step)))
            progress.update()
            progress.set_postfix(epoch=epoch + 1, loss=f"{losses[-1]:.3f}", refresh=False)
        record = {
            "epoch": epoch + 1,
            "loss": sum(losses) / len(losses),
            "seconds": time.monotonic() - started,
        }
        with (out / LOG_FILE).open("a") as log:
            log.write(json.dumps(record) + "\n")
        state.save(out, epoch + 1)
    progress.close()
    return average.eval()


def sandwich(model: Slimmable, recipe: Recipe, rng: Random) -> list[Subnet]:
    """Return the subnets of one step, the largest first."""
    if recipe.only is not None:
        return [recipe.only]
    return sandwich_of(model.space, recipe.random_subnets, rng)


def auxiliary_head(model: Slimmable) -> SlimLinear:
    """Return a fresh classifier over the classes of all tasks, fed by the pooled feature."""
    classes = sum(len(task.labels) for task in model.tasks.values())
    head = SlimLinear(model.config.channels[-1], classes)
    return head.to(next(model.parameters()).device)


def train_step(
    model: Slimmable, auxiliary: SlimLinear, batch: Images, recipe: Recipe, rng: Random
) -> float:
    """Add the gradients of one batch over the step's subnets.

    A decoder learns only from its own task's images, a few of a batch; the auxiliary classifier
    shows the encoder every image against every class.

    Args:
        model: In training mode.
        auxiliary: From `auxiliary_head`.
        batch: Normalised images, float32, sorted by task.
        recipe: For the weights of the losses.
        rng: Draws the subnets.

    Returns:
        The largest subnet's mean cross-entropy over the tasks.
    """
    labels = _joint_labels(model, batch)
    full: Tensor | None = None
    reported = 0.0
    for subnet in sandwich(model, recipe, rng):
        feature = batch.pixels
        for stage, width in enumerate(model.stage_widths(subnet), start=1):
            feature = model.run_stage(stage, width, feature)
        loss = _decoder_losses(model, subnet, feature, batch, recipe.label_smoothing)
        if full is None:
            full, reported = feature.detach(), loss.item()
        elif recipe.ci_kd:
            loss = loss + recipe.ci_kd * configuration_invariance(feature, full)
        if recipe.auxiliary:
            logits = auxiliary(feature.mean(dim=(2, 3)))
            joint = task_loss(logits, labels, recipe.label_smoothing) / len(batch)
            loss = loss + recipe.auxiliary * joint
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
    return reported


def _decoder_losses(
    model: Slimmable, subnet: Subnet, feature: Tensor, batch: Images, smoothing: float
) -> Tensor:
    """Return the mean over the images of each one's own task loss."""
    total = feature.new_zeros(())
    counts = torch.bincount(batch.task, minlength=len(model.tasks)).tolist()
    features, labels = torch.split(feature, counts), torch.split(batch.label, counts)
    for task, x, y in zip(model.tasks, features, labels, strict=True):
        if len(y):
            width = model.decoder_width(task, subnet)
            total = total + task_loss(model.decoder(task)(x, width), y, smoothing)
    return total / len(batch)


def _joint_labels(model: Slimmable, batch: Images) -> Tensor:
    """Return each image's class, counted over all tasks, int64, shape [batch]."""
    sizes = torch.tensor([len(task.labels) for task in model.tasks.values()])
    first = (sizes.cumsum(0) - sizes).to(batch.task.device)
    return first[batch.task] + batch.label


def _batches(
    data: Images, recipe: Recipe, generator: torch.Generator, model: Slimmable
) -> Iterator[Images]:
    """Yield augmented, normalised batches, each sorted by task; the last partial one is left."""
    device = next(model.parameters()).device
    order = torch.randperm(len(data), generator=generator)
    for start in range(0, len(data) - recipe.batch_size + 1, recipe.batch_size):
        picked = order[start : start + recipe.batch_size]
        picked = picked[torch.argsort(data.task[picked], stable=True)]
        pixels = augment(data.pixels[picked], recipe.crop_padding, recipe.cutout, generator)
        images = model.config.input.normalise(pixels).contiguous(memory_format=torch.channels_last)
        yield Images(images.to(device), data.task[picked].to(device), data.label[picked].to(device))


def augment(pixels: Tensor, padding: int, cutout: int, generator: torch.Generator) -> Tensor:
    """Crop at random from the reflected image, mirror half of them, blank one square.

    Args:
        pixels: uint8, shape [batch, 3, height, width].
        padding: Pixels of reflection on each side.
        cutout: Side of the square set to mid-grey; 0 for none.
        generator: Draws the places.

    Returns:
        uint8, the same shape.
    """
    n, _, height, width = pixels.shape
    padded = F.pad(pixels.float(), (padding,) * 4, mode="reflect").to(torch.uint8)
    top = torch.randint(0, 2 * padding + 1, (n, 1), generator=generator)
    left = torch.randint(0, 2 * padding + 1, (n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    rows = torch.arange(height) + top  # [batch, height]
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(mirrored, width - 1 - columns, columns) + left  # [batch, width]
    index = torch.arange(n)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    if cutout:
        y = torch.randint(0, height, (n, 1), generator=generator) - cutout // 2
        x = torch.randint(0, width, (n, 1), generator=generator) - cutout // 2
        in_rows = (torch.arange(height) >= y) & (torch.arange(height) < y + cutout)
        in_columns = (torch.arange(width) >= x) & (torch.arange(width) < x + cutout)
        cropped[in_rows[:, :, None] & in_columns[:, None, :]] = 128
    return cropped.permute(0, 3, 1, 2)


def _optimizer(trained: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    weights = [p for p in trained.parameters() if p.ndim > 1]
    others = [p for p in trained.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0)


def recipe_json(recipe: Recipe) -> dict[str, object]:
    """Return the recipe as JSON values, for the record beside the checkpoint."""
    fields = asdict(Recipe(**{**vars(recipe), "only": None}))
    return {**fields, "only": dict(recipe.only) if recipe.only else None}
