"""A recipe for maps from several kinds of maps: inputs, tokens and width are drawn in each step.

A step takes two passes on the same scenes, each with inputs of its own: one with all tokens and the
full width, one with as many as are drawn. Tokens are the first in the model's order or any.

Source: Bachmann et al. 2022, MultiMAE, arXiv 2204.01678, for inputs and tokens left out at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from models.families.modalities import Modalities
from models.inputs.image import ImageInput
from models.nn.token_maps import joined, run_layer
from models.nn.transformer import layers_of
from models.space import Value
from models.tasks import Task
from models.train.dense import check_enough, draw
from models.train.maps import Scale, scale_of, vision_loss
from models.train.run import train_averaged
from models.train.vision import VOID, Pictures

_SAVE_EVERY = 50  # steps


@dataclass(frozen=True)
class ModalityRecipe:
    """Hyper-parameters of one run.

    Attributes:
        steps: Of the optimiser.
        batch_size: Scenes per step.
        learning_rate: Peak, reached after the warm-up, then a cosine down to zero.
        warmup: Fraction of the steps.
        weight_decay: Of AdamW, on matrices only.
        leave_out: Whether inputs are left out at random; False is a control.
        ema: Decay of the averaged weights, which are what is kept.
        mirror: Whether half of the scenes are mirrored, directions with them.
        brightness: Most that brightness and contrast are changed by, 0..1.
        bfloat16: Whether products are computed in bfloat16.
        seed: For weights, scenes, changes to them, and what is drawn.
    """

    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    leave_out: bool = True
    ema: float = 0.99
    mirror: bool = True
    brightness: float = 0.2
    bfloat16: bool = False
    seed: int = 0


def train_modalities(
    model: Modalities,
    data: Pictures,
    tasks: Mapping[str, Task],
    recipe: ModalityRecipe,
    out: Path,
) -> Modalities:
    """Train a model in place and return the averaged copy; an interrupted run goes on.

    Args:
        model: Freshly built.
        data: Training split; inputs beside the image are maps of its truth.
        tasks: Of all of that truth.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; made if needed.

    Raises:
        ValueError: If there are fewer scenes than a step takes, or the folder holds the state of a
            run with another recipe.
    """
    check_enough(data, recipe)
    scales = {name: scale_of(task, data.truth[name]) for name, task in model.tasks.items()}

    def take(rng: Random) -> float:
        batch = draw(data, tasks, recipe, rng)
        return train_step(model, batch, scales, recipe, rng)

    return train_averaged(model, take, recipe, out, _SAVE_EVERY)


def train_step(
    model: Modalities,
    batch: Pictures,
    scales: Mapping[str, Scale],
    recipe: ModalityRecipe,
    rng: Random,
) -> float:
    """Add the gradients of one batch, and return the loss with all tokens and the full width."""
    maps, reported, sets = maps_of(model, batch), 0.0, model.space.axes[0].values
    for is_whole in (True, False):
        subnet: dict[str, Value] = dict(
            model.space.largest if is_whole else model.space.sample(rng)
        )
        subnet["inputs"] = rng.choice(sets) if recipe.leave_out else sets[-1]
        ranks = drawn_ranks(model, subnet, rng)
        with torch.autocast(batch.pixels.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            found = answers(model, {name: maps[name] for name in ranks}, ranks, subnet)
        losses = [
            vision_loss(model.tasks[task], one.float(), batch.truth[task], scales[task])
            for task, one in found.items()
        ]
        loss = torch.stack(losses).mean()
        if is_whole:
            reported = loss.item()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
    return reported


def drawn_ranks(model: Modalities, subnet: Mapping[str, Value], rng: Random) -> dict[str, Tensor]:
    """Return the tokens of each input of a subnet: half of the time the first ones, or any."""
    kept, places = model.kept(subnet), model.config.places
    is_any = rng.random() < 0.5
    return {
        name: torch.tensor(rng.sample(range(places), kept) if is_any else range(kept))
        for name in model.named(subnet)
    }


def answers(
    model: Modalities,
    maps: Mapping[str, Tensor],
    ranks: Mapping[str, Tensor],
    subnet: Mapping[str, Value],
) -> dict[str, Tensor]:
    """Return what a model makes of any of the tokens of some inputs, by task.

    Args:
        model: Of the inputs.
        maps: By name, in the model's order.
        ranks: Of each, numbers of its tokens in the order in which they are kept.
        subnet: For the width.
    """
    own = {name: model.patches_of(name) for name in maps}
    x = joined(*(part(ranks[name], maps[name]) for name, part in own.items()))
    for layer in layers_of(model):
        x = run_layer(layer, *model.widths(subnet), x)
    grid: Any = model.grid([part.order[ranks[name]] for name, part in own.items()], x)
    fine, config = model.run_fine(grid), model.config
    return {
        task: model.decoders[task](fine, grid, widths=config.decoder_channels, size=config.size)
        for task in model.tasks
    }


def maps_of(model: Modalities, pictures: Pictures) -> dict[str, Tensor]:
    """Return the inputs of scenes by name, float32, shape [scenes, channels, height, width].

    What is not known is the middle of what the model expects.
    """
    found = {}
    for one in model.config.modalities:
        if isinstance(one.input, ImageInput):
            found[one.name] = one.input.normalise(pictures.pixels)
            continue
        truth = pictures.truth[one.name]
        if truth.is_floating_point():
            found[one.name] = torch.where(truth.isfinite(), truth, one.middle)
        else:
            known = torch.where(truth == VOID, one.middle, truth.float())
            found[one.name] = known[:, None]
    return found
