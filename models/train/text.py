"""Recipes for multi-exit text encoders: which cells of (depth, dim) learn in a step, and how.

Every strategy trains cells of one pass through the layers: the hidden states of each exit are
pooled, cut and compared. ``random`` is 2DMSE as first released, ``pairs`` is Starbucks,
``hierarchical`` is self-distillation over all exits as in ModularStarEncoder. Beside the whole
model, each step may train one draw of fewer heads and units (sandwich rule).

What a cell learns comes from the data, see `models.train.examples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.families.exits import Exits
from models.nn.ragged import Ragged
from models.train import losses
from models.train.examples import Distances, Examples, base_loss, tokens_of
from models.train.run import RunState, StepPlan, adamw, attention, run_steps

Strategy = Literal["random", "pairs", "hierarchical"]
SAVE_EVERY = 200  # steps


@dataclass(frozen=True)
class TextRecipe:
    """Hyper-parameters of one run.

    Attributes:
        strategy: Which cells learn in a step.
        steps: Optimiser steps.
        batch_size: Texts, pairs or rated pairs per step, by the batch's kind.
        learning_rate: Peak, after the warm-up, then a cosine down to zero.
        projection_rate: The same for the exits' projections.
        warmup: Fraction of the steps.
        weight_decay: Of AdamW, on matrices only.
        divergence: Weight of the divergence between a cell and the full one; 0 leaves it out.
        narrow: Draws of fewer heads and units per step.
        exit_power: The strategy ``hierarchical`` weighs exit i of N by (i / N) to this power: as
            the paper at 1, all alike at 0, the first ones most below 0.
        max_tokens: Training texts are cut there; what the model may be asked is not.
        pairs: Cells of the strategy ``pairs``.
        only_last: Train nothing but the last exit at full width: the control.
        bfloat16: Whether matrix products are computed in bfloat16; weights stay in float32.
        seed: For order and draws.
    """

    strategy: Strategy = "hierarchical"
    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 1e-4
    projection_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    divergence: float = 1.0
    narrow: int = 1
    exit_power: float = 1.0
    max_tokens: int = 128
    pairs: tuple[tuple[int, int], ...] = ()
    only_last: bool = False
    bfloat16: bool = False
    seed: int = 0


def train(
    model: Exits, data: Sequence[tuple[Examples, float]], recipe: TextRecipe, out: Path
) -> None:
    """Train a model in place.

    The state is written every ``SAVE_EVERY`` steps; called again with the same arguments, an
    interrupted run goes on where it stopped.

    Args:
        model: On the device to train on.
        data: Data sets with the share of steps that each is drawn for.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; made if needed.

    Raises:
        ValueError: If the folder holds the state of a run with another recipe.
    """
    model.train().requires_grad_(True)
    # Half of the parameters and most of an optimiser step; they serve every exit as they are.
    model.embedding.token.requires_grad_(False)
    optimizer = _optimizer(model, recipe)
    state = RunState({"model": model, "optimizer": optimizer}, recipe_json(recipe))

    def take(rng: Random) -> float:
        (examples,) = rng.choices([d for d, _ in data], [share for _, share in data])
        return train_step(model, examples, recipe, rng)

    plan = StepPlan(recipe.steps, recipe.warmup, recipe.seed, SAVE_EVERY)
    run_steps(take, optimizer, model.parameters(), state, out, plan)
    model.eval().requires_grad_(False)


def train_step(model: Exits, examples: Examples, recipe: TextRecipe, rng: Random) -> float:
    """Add the gradients of one batch; return its loss."""
    space = model.space
    widths = [model.widths(space.largest)]
    if not recipe.only_last:
        widths += [model.widths(space.sample(rng)) for _ in range(recipe.narrow)]
    size = len(examples.tokens if isinstance(examples, Distances) else examples.first)
    picked = rng.sample(range(size), min(recipe.batch_size, size))
    device = next(model.parameters()).device
    batch = Ragged.pack(tokens_of(examples, picked)).to(device)
    total = 0.0
    for groups, units in widths:
        with attention(device), torch.autocast(device.type, torch.bfloat16, recipe.bfloat16):
            pooled = pooled_exits(model, batch, groups, units)
        pooled = {depth: vectors.float() for depth, vectors in pooled.items()}
        loss = _loss(model, pooled, examples, picked, recipe, rng)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        total += loss.item()
    return total / len(widths)


def pooled_exits(model: Exits, tokens: Ragged, groups: int, units: int) -> dict[int, Tensor]:
    """Return every exit's vectors before they are cut and normalised, from one pass.

    Args:
        model: Any.
        tokens: Packed ids.
        groups: Of heads, in every layer.
        units: Of the feed-forward, in every layer.

    Returns:
        By depth, shape [rows, dim].
    """
    hidden = model.embedding(tokens)
    found = {}
    for depth, layer in enumerate(model.layers, start=1):
        hidden = layer(groups, units, hidden)
        if depth in model.config.depths:
            found[depth] = model.pool(depth, model.config.dims[-1], hidden)
    return found


def cells(model: Exits, recipe: TextRecipe, rng: Random) -> list[tuple[int, int, float]]:
    """Return the (depth, dim, weight) that learn in a step, the full one first.

    Sources: as in the module's docstring; ModularStarEncoder weighs exit i of N by i / N, arXiv
    2503.03008.
    """
    depths, dims = model.config.depths, model.config.dims
    full = (depths[-1], dims[-1], 1.0)
    if recipe.only_last:
        return [full]
    if recipe.strategy == "random":
        depth, dim = rng.choice(depths[:-1]), rng.choice(dims)
        found = [(depth, dims[-1], 1.0), (depths[-1], dim, 1.0), (depth, dim, 1.0)]
    elif recipe.strategy == "pairs":
        found = [(depth, dim, 1.0) for depth, dim in recipe.pairs]
    else:
        drawn = [(depth, rng.choice(dims[:-1] or dims)) for depth in depths[:-1]]
        drawn += [(depths[-1], dim) for dim in dims[:-1]]
        whole = [(depth, dims[-1]) for depth in depths[:-1]]
        found = [
            (depth, dim, (depth / depths[-1]) ** recipe.exit_power)
            for depth, dim in (*whole, *drawn)
        ]
    return [full, *(cell for cell in found if cell[:2] != full[:2])]


def _loss(
    model: Exits,
    pooled: dict[int, Tensor],
    examples: Examples,
    picked: Sequence[int],
    recipe: TextRecipe,
    rng: Random,
) -> Tensor:
    full_depth = model.config.depths[-1]
    full = F.normalize(pooled[full_depth], dim=1)
    loss = full.new_zeros(())
    total_weight = 0.0
    for depth, dim, weight in cells(model, recipe, rng):
        vectors = F.normalize(pooled[depth][:, :dim], dim=1)
        own = base_loss(vectors, examples, picked)
        is_full = depth == full_depth and dim == model.config.dims[-1]
        # With a teacher of its own, a data set needs no second one.
        if recipe.divergence and not is_full and not isinstance(examples, Distances):
            if recipe.strategy == "random":
                if dim == model.config.dims[-1] and depth != full_depth:
                    own = own + recipe.divergence * losses.feature_divergence(
                        pooled[depth], pooled[full_depth]
                    )
            else:
                own = own + recipe.divergence * losses.score_divergence(vectors, full)
        loss = loss + weight * own
        total_weight += weight
    return loss / total_weight


def _optimizer(model: Exits, recipe: TextRecipe) -> torch.optim.Optimizer:
    def terms(name: str, parameter: nn.Parameter) -> tuple[float, float]:
        is_projection = ".projection." in name
        rate = recipe.projection_rate if is_projection else recipe.learning_rate
        return rate, recipe.weight_decay if parameter.ndim > 1 and not is_projection else 0.0

    return adamw(model, terms)


def recipe_json(recipe: TextRecipe) -> dict[str, Any]:
    """Return the recipe as JSON values, for the record beside the checkpoint."""
    return {**asdict(recipe), "pairs": [list(pair) for pair in recipe.pairs]}
