"""A recipe for selectors: summaries of texts learn to give the vectors that all tokens give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from models.families.tokens import ALL, FewerTokens
from models.space import Subnet
from models.train.examples import Distances
from models.train.run import train_part
from models.train.skills import learn


@dataclass(frozen=True)
class SelectorRecipe:
    """Hyper-parameters of one run.

    Attributes:
        steps: Optimiser steps.
        batch_size: Texts per step.
        learning_rate: Peak, after the warm-up, then a cosine down to zero.
        warmup: Fraction of the steps.
        max_tokens: Training texts are cut there.
        bfloat16: Whether matrix products are computed in bfloat16.
        seed: For order and draws.
    """

    steps: int = 300
    batch_size: int = 48
    learning_rate: float = 1e-2
    warmup: float = 0.1
    max_tokens: int = 96
    bfloat16: bool = False
    seed: int = 0


def train_selectors(
    model: FewerTokens, texts: Distances, recipe: SelectorRecipe, out: Path
) -> None:
    """Train a model's selectors in place, a number of tokens at random in each step.

    Args:
        model: Whose other weights do not change.
        texts: With the vectors that all tokens give.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; a run that was interrupted goes on.

    Raises:
        ValueError: If the folder holds the state of a run with another recipe.
    """

    def take(rng: Random) -> float:
        count = rng.choice([one for one in model.space.axes[0].values if one != ALL])
        subnet = Subnet({**model.space.largest, "tokens": count})
        plan = model.plan(subnet, {"text": (1,)})
        return learn(plan, texts, recipe.batch_size, rng, recipe.bfloat16)

    train_part(model, "selectors", take, recipe, out)
