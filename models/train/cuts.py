"""Distillation of a text encoder into its cuts: what the closed-form fit of each layer leaves.

`models.elasticize` fits every layer's own maps to what the whole layer gave. Here these maps learn
together, by gradient, what the whole model answers. The whole model's weights, which the cuts read
slices of, stay as they are, so its own answers do not change.

A cut is pulled to the whole model's vectors, and to the similarities between them: those of its own
vectors with each other, and those with the whole model's, as one index serves both.

Sources: Reimers and Gurevych 2020, arXiv 2004.09813, for the distance to a teacher's vectors;
Passalis and Tefas 2018, Learning Deep Representations with Probabilistic Knowledge Transfer, arXiv
1803.10837, for similarities as what is taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from models.elasticize.streams import Stack
from models.families.pruned import Pruned
from models.nn.ragged import Ragged
from models.train.run import RunState, StepPlan, attention, run_steps

SAVE_EVERY = 200  # steps
_SPAN = 32  # batches of texts that lie side by side by length, of which one is drawn


@dataclass(frozen=True)
class CutsRecipe:
    """Hyper-parameters of one run.

    Attributes:
        steps: Optimiser steps.
        batch_size: Texts in each.
        learning_rate: Peak of Adam's, after the warm-up, then a cosine down to zero.
        warmup: Fraction of the steps.
        cuts: That learn in a step, drawn anew; all if there are fewer. One that keeps less has more
            to learn and is drawn more often: by weights of 1 - keep.
        similarity: Weight of the similarities beside the vectors.
        max_tokens: Training texts are cut there.
        bfloat16: Whether matrix products are computed in bfloat16; weights stay in float32.
        seed: For order and draws.
    """

    steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 3e-4
    warmup: float = 0.03
    cuts: int = 2
    similarity: float = 5.0
    max_tokens: int = 96
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense; ValueError naming the field."""
        for name, least in (("steps", 1), ("batch_size", 2), ("cuts", 1), ("max_tokens", 3)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be {least} or more")


def train_cuts(model: Pruned, texts: Sequence[Tensor], recipe: CutsRecipe, out: Path) -> None:
    """Train the maps that a model's cuts have of their own, in place.

    The state is written every ``SAVE_EVERY`` steps; called again with the same arguments, an
    interrupted run goes on where it stopped.

    Args:
        model: A text encoder with one cut or more beside the whole.
        texts: Token ids.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; made if needed.

    Raises:
        ValueError: If the model has nothing to train, there is no batch of texts, or the folder
            holds the state of a run with another recipe.
    """
    keeps = [keep for keep in model.config.keep if 0 < keep < 1]
    own = list(model.forms.parameters())
    kinds = {task.kind for task in model.tasks.values()}
    if not keeps or not own or kinds != {"embedding"}:
        raise ValueError(f"{model.name} has no cut of an encoder to train")
    if len(texts) < recipe.batch_size:
        raise ValueError(f"{len(texts)} texts are fewer than batch_size={recipe.batch_size}")
    model.requires_grad_(False)
    for parameter in own:
        parameter.requires_grad_(True)
    rate = recipe.learning_rate
    optimizer = torch.optim.Adam([{"params": own, "lr": rate, "peak": rate}])
    state = RunState({"forms": model.forms, "optimizer": optimizer}, asdict(recipe))
    stack = Stack(model.base)

    ordered = sorted((text[: recipe.max_tokens] for text in texts), key=len)

    def take(rng: Random) -> float:
        batch = Ragged.pack(draw_alike(ordered, recipe.batch_size, rng))
        drawn = draw_cuts(keeps, recipe.cuts, rng)
        with torch.autocast("cpu", torch.bfloat16, recipe.bfloat16):
            return train_step(model, stack, batch, drawn, recipe.similarity)

    plan = StepPlan(recipe.steps, recipe.warmup, recipe.seed, SAVE_EVERY)
    run_steps(take, optimizer, own, state, out, plan)
    model.eval().requires_grad_(False)


def draw_alike(ordered: Sequence[Tensor], count: int, rng: Random) -> list[Tensor]:
    """Return some texts of about one length, as attention pads a batch to its longest.

    Args:
        ordered: Texts, the shortest first.
        count: Of them; texts are drawn from this many times ``_SPAN`` that lie side by side.
        rng: Draws them.
    """
    span = min(len(ordered), _SPAN * count)
    first = rng.randrange(len(ordered) - span + 1)
    return [ordered[i] for i in rng.sample(range(first, first + span), count)]


def draw_cuts(keeps: Sequence[float], count: int, rng: Random) -> list[float]:
    """Return different cuts, drawn by weights of 1 - keep."""
    left = list(keeps)
    found = []
    for _ in range(min(count, len(left))):
        (one,) = rng.choices(left, [1 - keep for keep in left])
        left.remove(one)
        found.append(one)
    return found


def train_step(
    model: Pruned, stack: Stack, batch: Ragged, keeps: Sequence[float], similarity: float
) -> float:
    """Add the gradients of one batch for some cuts; return their mean loss."""
    total = 0.0
    with attention(next(model.parameters()).device):
        with torch.no_grad():
            entry = stack.enter(batch)
            whole = stack.leave(stack.through(entry))
        for keep in keeps:
            found = stack.leave(model.through(keep, entry))
            loss = cut_loss(found, whole, similarity)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            total += loss.item()
    return total / len(keeps)


def cut_loss(found: Tensor, whole: Tensor, similarity: float) -> Tensor:
    """Return how far unit vectors are from the whole model's, shape [texts, dim] each; a scalar."""
    with torch.autocast("cpu", enabled=False):
        return _loss(found.float(), whole.float(), similarity)


def _loss(found: Tensor, whole: Tensor, similarity: float) -> Tensor:
    aims = whole @ whole.T
    distance = (1 - (found * whole).sum(dim=1)).mean()
    own = F.mse_loss(found @ found.T, aims)
    across = F.mse_loss(found @ whole.T, aims)
    return distance + similarity * (own + across)
