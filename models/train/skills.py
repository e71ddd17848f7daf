"""A recipe for one skill of a text encoder: all of its layers learn from pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.core import Plan
from models.families.exits import Exits
from models.nn.ragged import Ragged, Value
from models.train.examples import Distances, Examples, base_loss, tokens_of
from models.train.run import attention, train_part


@dataclass(frozen=True)
class SkillRecipe:
    """Hyper-parameters of one run.

    Attributes:
        steps: Optimiser steps.
        batch_size: Pairs per step.
        learning_rate: Peak, after the warm-up, then a cosine down to zero.
        warmup: Fraction of the steps.
        weight_decay: Of AdamW, on matrices only.
        max_tokens: Training texts are cut there.
        bfloat16: Whether matrix products are computed in bfloat16.
        seed: For order and draws.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_tokens: int = 64
    bfloat16: bool = False
    seed: int = 0


def train_skill(model: Exits, examples: Examples, recipe: SkillRecipe, out: Path) -> None:
    """Train the layers of a model in place; embeddings of tokens do not change.

    Args:
        model: Whose largest subnet learns.
        examples: Pairs.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; a run that was interrupted goes on.

    Raises:
        ValueError: If the folder holds the state of a run with another recipe.
    """
    whole = model.plan(model.space.largest, {"text": (1,)})

    def take(rng: Random) -> float:
        return learn(whole, examples, recipe.batch_size, rng, recipe.bfloat16)

    train_part(model, "layers", take, recipe, out, recipe.weight_decay)


def _nothing(picked: Sequence[int], rows: int) -> Mapping[str, Value]:
    return {}


def _no_more() -> float:
    return 0.0


def learn(
    plan: Plan,
    examples: Examples,
    batch_size: int,
    rng: Random,
    bfloat16: bool,
    more: Callable[[Sequence[int], int], Mapping[str, Value]] = _nothing,
    added: Callable[[], Tensor | float] = _no_more,
) -> float:
    """Add the gradients of one batch of texts; return its loss.

    Args:
        plan: That makes vectors of them.
        examples: Of texts.
        batch_size: Examples.
        rng: Draws them.
        bfloat16: Whether matrix products are computed in bfloat16.
        more: Function of the examples that were drawn and of the rows of their batch, to the other
            inputs of the plan.
        added: To the loss, once the plan has run.
    """
    size = len(examples.tokens if isinstance(examples, Distances) else examples.first)
    picked = rng.sample(range(size), min(batch_size, size))
    batch = Ragged.pack(tokens_of(examples, picked))
    values: dict[Any, Value] = {"text": batch, **more(picked, len(batch))}
    raw = plan.with_raw()
    with attention(torch.device("cpu")), torch.autocast("cpu", torch.bfloat16, bfloat16):
        for step in raw:
            taken = [values[one if isinstance(one, str) else one.identity] for one in step.takes]
            values[step.identity] = step.run(*taken)
    vectors = values[raw.steps[-1].identity]
    assert isinstance(vectors, Tensor)
    loss = base_loss(F.normalize(vectors.float(), dim=1), examples, picked) + added()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
    return loss.item()
