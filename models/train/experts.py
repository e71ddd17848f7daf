"""A recipe for experts: each row learns to give what the whole model gives, with a few of them.

A batch has texts of all skills. What the choice of an expert says of the skill, their mutual
information, is a part of the loss: it rewards experts that few skills read, and all that are read.

Source: Chen et al. 2023, An Efficient General-Purpose Modular Vision Model via Multi-Task
Heterogeneous Training, arXiv 2306.17165, for the mutual information of tasks and experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from models.backends.torch import TorchBackend
from models.families.experts import COUNT, SKILL, ExpertModel
from models.nn.experts import Experts
from models.nn.ragged import Ragged, Value
from models.train.examples import Distances
from models.train.run import train_part
from models.train.skills import learn

_TINY = 1e-9
_ROWS = 64  # of a batch that is only looked at


@dataclass(frozen=True)
class ExpertRecipe:
    """Hyper-parameters of one run.

    Attributes:
        steps: Optimiser steps.
        batch_size: Texts per step, of all skills together.
        learning_rate: Peak, after the warm-up, then a cosine down to zero.
        warmup: Fraction of the steps.
        information: Weight of the mutual information of skills and experts; 0 is a control.
        gated: Whether texts choose experts; False is a control: all read the same, the first ones.
        threshold: A skill keeps the experts that at least this share of its texts read.
        max_tokens: Training texts are cut there.
        bfloat16: Whether matrix products are computed in bfloat16.
        seed: For order and draws.
    """

    steps: int = 250
    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup: float = 0.1
    information: float = 0.02
    gated: bool = True
    threshold: float = 0.01
    max_tokens: int = 48
    bfloat16: bool = False
    seed: int = 0


def train_experts(
    model: ExpertModel, texts: Distances, skills: Sequence[int], recipe: ExpertRecipe, out: Path
) -> None:
    """Train a model's experts in place, a number of them at random in each step.

    Args:
        model: Whose wrapped model does not change.
        texts: With the vectors that the whole model gives.
        skills: Of each text, its number.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; a run that was interrupted goes on.

    Raises:
        ValueError: If the folder holds the state of a run with another recipe.
    """
    of_text, layers = torch.tensor(skills), list[Tensor]()
    subnet = model.space.largest | {"inputs": f"text+{SKILL}"}

    def noted(part: nn.Module, taken: Any, _: Any) -> None:
        assert isinstance(part, Experts)
        _, x, which = taken
        layers.append(information(part.worth(x, which).float().softmax(1), which))

    def more(picked: Sequence[int], _: int) -> dict[str, Value]:
        layers.clear()
        return {SKILL: of_text[list(picked)]}

    def added() -> Tensor:
        return -recipe.information * torch.stack(layers).mean()

    def take(rng: Random) -> float:
        count = rng.choice(model.config.counts)
        plan = model.plan(subnet | {COUNT: count}, {"text": (1,), SKILL: ()})
        return learn(plan, texts, recipe.batch_size, rng, recipe.bfloat16, more, added)

    model.experts.requires_grad_(True)
    hooks = [part.register_forward_hook(noted) for part in model.parts]
    if not recipe.gated:
        for part in model.parts:
            chooses = [one for one in (part.bias, part.content) if one is not None]
            hooks += [one.register_hook(torch.zeros_like) for one in chooses]  # type: ignore[no-untyped-call]
    train_part(model, "experts", take, recipe, out)
    for hook in hooks:
        hook.remove()


def information(shares: Tensor, which: Tensor) -> Tensor:
    """Return the mutual information of skills and experts in nats, a scalar.

    Args:
        shares: Probabilities of each row's experts, shape [rows, experts].
        which: Skill of each row, int64, shape [rows].
    """
    skills = nn.functional.one_hot(which).to(shares.dtype)
    joint = skills.T @ shares / len(shares)
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return (joint * ((joint + _TINY) / (apart + _TINY)).log()).sum()


def use_of(model: ExpertModel, texts: Sequence[Tensor], skill: int, count: int) -> list[Tensor]:
    """Return what share of a skill's texts reads each expert, by layer, shape [experts].

    Args:
        model: With all experts.
        texts: Token ids of each.
        skill: Its number.
        count: Experts that a text reads.
    """
    read = [torch.zeros(model.config.experts) for _ in model.parts]

    def noted(part: nn.Module, taken: Any, _: Any) -> None:
        assert isinstance(part, Experts)
        read[model.parts.index(part)] += part.shares(*taken)[1].sum(0)

    plan = model.plan(
        model.space.largest | {COUNT: count, "inputs": f"text+{SKILL}"}, {"text": (1,), SKILL: ()}
    )
    backend = TorchBackend()
    backend.prepare(model)
    hooks = [part.register_forward_hook(noted) for part in model.parts]
    for start in range(0, len(texts), _ROWS):
        batch = Ragged.pack(texts[start : start + _ROWS])
        backend.run_all([plan], {"text": batch, SKILL: torch.full((len(batch),), skill)})
    for hook in hooks:
        hook.remove()
    return [own / len(texts) for own in read]
