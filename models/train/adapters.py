"""A recipe for adapters: each learns its own pairs beside the others, on a trunk that stays.

Each step draws an adapter and a rank; leading ranks learn most often, so that they are good alone.

Source: Valipour et al. 2022, DyLoRA, arXiv 2210.07558, for random ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from models.families.adapted import Adapted
from models.inputs.adapter import KIND
from models.nn.ragged import Value
from models.space import Subnet
from models.train.examples import Examples
from models.train.run import train_part
from models.train.skills import learn


@dataclass(frozen=True)
class AdapterRecipe:
    """Hyper-parameters of one run.

    Attributes:
        rank: Of each adapter.
        steps: Optimiser steps, of all adapters together.
        batch_size: Pairs per step.
        learning_rate: Peak, after the warm-up, then a cosine down to zero.
        warmup: Fraction of the steps.
        nested: Whether smaller ranks are drawn too; False is the control.
        max_tokens: Training texts are cut there.
        bfloat16: Whether matrix products are computed in bfloat16.
        seed: For order and draws.
    """

    rank: int = 8
    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.1
    nested: bool = True
    max_tokens: int = 64
    bfloat16: bool = False
    seed: int = 0


def train_adapters(
    model: Adapted, data: Mapping[str, Examples], recipe: AdapterRecipe, out: Path
) -> None:
    """Train a model's adapters in place; the trunk does not change.

    Args:
        model: With an adapter of each name.
        data: By adapter, what it learns.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; a run that was interrupted goes on.

    Raises:
        ValueError: If the folder holds the state of a run with another recipe.
    """
    names = list(data)

    def take(rng: Random) -> float:
        name = rng.choice(names)
        rank = rng.choice(model.config.ranks) if recipe.nested else model.config.ranks[-1]
        return _step(model, name, data[name], rank, recipe, rng)

    train_part(model, "low", take, recipe, out)


def _step(
    model: Adapted,
    name: str,
    examples: Examples,
    rank: int,
    recipe: AdapterRecipe,
    rng: Random,
) -> float:
    """Add the gradients of one batch; return its loss."""
    plan = model.plan(Subnet({**model.space.largest, "rank": rank}), {"text": (1,), KIND: ()})
    number = model.config.adapters.index(name)

    def more(_: Sequence[int], rows: int) -> dict[str, Value]:
        return {KIND: torch.full((rows,), number)}

    return learn(plan, examples, recipe.batch_size, rng, recipe.bfloat16, more)
