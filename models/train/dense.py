"""Recipe for the dense family: sandwich rule, task losses where truth is known, CI-KD.

Each step trains the largest subnet, the smallest and some drawn at random on the same images, with
one optimiser step on the summed gradients.

Sources: Yu and Huang 2019, Universally Slimmable Networks, arXiv 1903.05134, section 3.2, for the
sandwich rule; Aich et al. 2023, arXiv 2308.11744, for CI-KD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

import torch
from torch import Tensor

from models.families.dense import Dense
from models.nn.dense import MapDecoder
from models.tasks import Task
from models.train.losses import configuration_invariance
from models.train.maps import Scale, scale_of, vision_loss
from models.train.run import AveragedRecipe, sandwich_of, train_averaged
from models.train.vision import Pictures, is_known


@dataclass(frozen=True)
class DenseRecipe:
    """Hyper-parameters of one run.

    Attributes:
        steps: Of the optimiser.
        batch_size: Images per step.
        learning_rate: Peak, reached after the warm-up, then a cosine down to zero.
        warmup: Fraction of the steps.
        weight_decay: Of AdamW, on convolution and linear weights only.
        label_smoothing: Of classes of whole images, 0..1.
        random_subnets: Subnets drawn per step beside the largest and the smallest.
        ci_kd: Weight of the configuration-invariance loss; 0 leaves it out.
        ema: Decay of the averaged weights, which are what is kept.
        mirror: Whether half of the images are mirrored, directions with them.
        brightness: Most that brightness and contrast are changed by, 0..1.
        bfloat16: Whether products are computed in bfloat16.
        seed: For weights, images, changes to them and the subnets drawn.
    """

    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup: float = 0.05
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    random_subnets: int = 1
    ci_kd: float = 0.1
    ema: float = 0.99
    mirror: bool = True
    brightness: float = 0.2
    bfloat16: bool = False
    seed: int = 0


class Drawing(AveragedRecipe, Protocol):
    """What a recipe says of the images of a step, beside the run; see `DenseRecipe`."""

    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def mirror(self) -> bool: ...  # noqa: D102
    @property
    def brightness(self) -> float: ...  # noqa: D102


_SAVE_EVERY = 100  # steps


def train_dense(model: Dense, data: Pictures, recipe: DenseRecipe, out: Path) -> Dense:
    """Train ``model`` in place and return the averaged copy.

    Called again with the same arguments, an interrupted run goes on where it last saved, with the
    same draws as an uninterrupted one.

    Args:
        model: Freshly built, on the device to train on.
        data: Training split.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; made if needed.

    Raises:
        ValueError: If there are fewer images than a step takes, or the folder holds the state of a
            run with another recipe.
    """
    check_enough(data, recipe)
    device = next(model.parameters()).device
    scales = {name: scale_of(task, data.truth[name]) for name, task in model.tasks.items()}
    begin_at(model, scales)

    def take(rng: Random) -> float:
        batch = draw(data, model.tasks, recipe, rng)
        images = model.config.input.normalise(batch.pixels).to(device)
        truth = {task: one.to(device) for task, one in batch.truth.items()}
        return train_step(model, images, truth, scales, recipe, rng)

    return train_averaged(model, take, recipe, out, _SAVE_EVERY)


def train_step(
    model: Dense,
    images: Tensor,
    truth: Mapping[str, Tensor],
    scales: Mapping[str, Scale],
    recipe: DenseRecipe,
    rng: Random,
) -> float:
    """Add the gradients of one batch over the step's subnets.

    Args:
        model: In training mode.
        images: Normalised, float32, shape [batch, 3, height, width].
        truth: By task, as `models.train.vision.Pictures` has it.
        scales: Of each task's loss.
        recipe: For the weights of the losses.
        rng: Draws the subnets.

    Returns:
        The largest subnet's loss.
    """
    # A task counts as far as it is known: where all are, alike; where one is for each image, so
    # that each image counts alike.
    shares = {task: _share_known(one) for task, one in truth.items()}
    total = sum(shares.values()) or 1.0
    full: list[Tensor] | None = None
    reported = 0.0
    for subnet in sandwich_of(model.space, recipe.random_subnets, rng):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            features = model.encode(images, subnet)
            answers = {
                task: model.decode(task, features, subnet)
                for task, share in shares.items()
                if share
            }
        losses = [
            shares[task]
            / total
            * vision_loss(
                model.tasks[task], one.float(), truth[task], scales[task], recipe.label_smoothing
            )
            for task, one in answers.items()
        ]
        loss = torch.stack(losses).sum() if losses else images.sum() * 0
        if full is None:
            full, reported = [one.detach() for one in features], loss.item()
        elif recipe.ci_kd:
            pairs = zip(features, full, strict=True)
            apart = [configuration_invariance(one.float(), whole.float()) for one, whole in pairs]
            loss = loss + recipe.ci_kd * torch.stack(apart).mean()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
    return reported


def _share_known(truth: Tensor) -> float:
    known = is_known(truth)
    return float((known.flatten(1).any(1) if known.ndim > 1 else known).float().mean())


@torch.no_grad()
def begin_at(model: Dense, scales: Mapping[str, Scale]) -> None:
    """Let answers of numbers begin at the mean of the truth, which is far to go for small steps."""
    for task, scale in scales.items():
        decoder = model.decoder(task)
        if isinstance(decoder, MapDecoder) and not model.tasks[task].labels:
            decoder.bias.copy_(scale.middle.flatten())


def check_enough(data: Pictures, recipe: Drawing) -> None:
    """Refuse a recipe whose steps take more images than there are; ValueError."""
    if len(data) < recipe.batch_size:
        raise ValueError(f"batch_size={recipe.batch_size} must be {len(data)} or less, all images")


def draw(data: Pictures, tasks: Mapping[str, Task], recipe: Drawing, rng: Random) -> Pictures:
    """Return the images of one step, changed at random, and their truth changed alike."""
    batch = data.part(torch.tensor(rng.sample(range(len(data)), recipe.batch_size)))
    pixels = batch.pixels.float()
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    if recipe.brightness:
        shape = (2, len(batch), 1, 1, 1)
        gain, shift = 2 * torch.rand(shape, generator=generator) - 1
        middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = middle + (1 + recipe.brightness * gain) * (pixels - middle)
        pixels = (pixels + 128 * recipe.brightness * shift).clamp(0, 255)
    truth = dict(batch.truth)
    if recipe.mirror:
        turned = torch.rand(len(batch), generator=generator) < 0.5
        pixels[turned] = pixels[turned].flip(-1)
        for name, one in truth.items():
            truth[name] = mirrored(tasks[name], one, turned)
    return Pictures(pixels, truth)


def mirrored(task: Task, truth: Tensor, turned: Tensor) -> Tensor:
    """Return what is true once some images are mirrored: directions to the right point left."""
    if task.kind == "classes":
        return truth
    found = truth.clone()
    found[turned] = truth[turned].flip(-1)
    if task.metric == "mean_angular_error":
        found[turned, 0] *= -1
    return found
