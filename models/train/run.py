"""What every recipe needs to go on after an interruption, and the learning rate's schedule."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from models.files import reading
from models.space import Space, Subnet

M = TypeVar("M", bound=nn.Module)
STATE_FILE = "state.pt"
LOG_FILE = "train.jsonl"
_SAVE_EVERY = 100  # steps of training a part


class StateError(ValueError):
    """What an earlier run has kept is not there, or damaged. The message names the file."""


@dataclass(frozen=True)
class RunState:
    """Everything that an interrupted run needs to go on.

    Attributes:
        parts: By name, whatever has a ``state_dict``: models, optimisers.
        recipe: JSON values; a run goes on with the same ones only.
    """

    parts: Mapping[str, Any]
    recipe: Mapping[str, object]

    def save(self, folder: Path, done: int) -> None:
        """Write the state in one piece: a crash leaves the state before.

        Args:
            folder: Of the run.
            done: Epochs or steps.
        """
        state = {name: part.state_dict() for name, part in self.parts.items()}
        path = folder / STATE_FILE
        partial = path.with_suffix(".tmp")
        torch.save({**state, "done": done, "recipe": dict(self.recipe)}, partial)
        partial.replace(path)

    def resume(self, folder: Path) -> int:
        """Load the state if there is one; return what is done already.

        Raises:
            ValueError: If the folder holds the state of a run with another recipe.
        """
        path = folder / STATE_FILE
        if not path.exists():
            return 0
        state = load_state(path)
        if state["recipe"] != dict(self.recipe):
            raise ValueError(
                f"{path} belongs to another recipe: {state['recipe']}, not {dict(self.recipe)}"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return int(state["done"])


@dataclass(frozen=True)
class StepPlan:
    """How many steps a run takes.

    Attributes:
        steps: Of the optimiser.
        warmup: Fraction of them, see `cosine_schedule`.
        seed: Of what each step draws.
        save_every: Steps between two states and lines of the log.
    """

    steps: int
    warmup: float
    seed: int
    save_every: int


def run_steps(
    take: Callable[[Random], float],
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    state: RunState,
    out: Path,
    plan: StepPlan,
) -> None:
    """Take the steps that are left of a run.

    Args:
        take: Adds the gradients of one step and returns its loss; its draws come from the argument.
        optimizer: Its groups have the highest learning rate as ``peak``.
        parameters: Whose gradients together have a norm of 1 at most.
        state: Of the run; resumed from ``out``.
        out: Folder for the state and the log; made if needed.
        plan: See `StepPlan`.

    Raises:
        ValueError: As `RunState.resume`.
    """
    out.mkdir(parents=True, exist_ok=True)
    first, clipped = state.resume(out), list(parameters)
    started, recent = time.monotonic(), list[float]()
    progress = tqdm(range(first, plan.steps), initial=first, total=plan.steps, mininterval=5)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * cosine_schedule(step / plan.steps, plan.warmup)
        # By step, so that a resumed run draws the same.
        recent.append(take(Random(f"{plan.seed}/{step}")))
        nn.utils.clip_grad_norm_(clipped, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            loss = sum(recent) / len(recent)
            progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
            record = {"step": step + 1, "loss": loss, "seconds": time.monotonic() - started}
            with (out / LOG_FILE).open("a") as log:
                log.write(json.dumps(record) + "\n")
            recent.clear()
            state.save(out, step + 1)


def sandwich_of(space: Space, drawn: int, rng: Random) -> list[Subnet]:
    """Return the subnets of one step: the largest, the smallest and some drawn at random."""
    return [space.largest, space.smallest, *(space.sample(rng) for _ in range(drawn))]


def load_state(path: Path) -> dict[str, Any]:
    """Return what a run has kept in a file.

    Raises:
        StateError: If the file is not there or damaged.
    """
    with reading(path, StateError):
        state = torch.load(path, weights_only=True)
        if not isinstance(state, dict):
            raise StateError(f"{path} holds no state of a run")
    return state


def cosine_schedule(progress: float, warmup: float) -> float:
    """Return the learning rate over its peak: a linear warm-up, then a cosine down to zero.

    Args:
        progress: Part of the run that is done, 0..1.
        warmup: Part of the run, 0..1.
    """
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def attention(device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which attention is fastest to train.

    On CPUs, torch's fused attention took 44 % of a step in bfloat16, its plain one a tenth.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def adamw(
    model: nn.Module, terms: Callable[[str, nn.Parameter], tuple[float, float]]
) -> torch.optim.AdamW:
    """Return AdamW over the parameters of a model that learn.

    Args:
        model: To train.
        terms: Returns the peak of a parameter's learning rate and its weight decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(terms(name, parameter), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "peak": rate, "lr": rate}
            for (rate, decay), parameters in groups.items()
        ]
    )


class PartRecipe(Protocol):
    """What a recipe says, a dataclass, of training one part of a model."""

    @property
    def steps(self) -> int:
        """Batches."""

    @property
    def learning_rate(self) -> float:
        """Peak rate, after the warm-up."""

    @property
    def warmup(self) -> float:
        """Share of the steps in which the rate rises."""

    @property
    def seed(self) -> int:
        """Of the order of examples and of random choices."""


def train_part(
    model: nn.Module,
    name: str,
    take: Callable[[Random], float],
    recipe: PartRecipe,
    out: Path,
    weight_decay: float = 0.0,
) -> None:
    """Train one part of a model in place; all else stays.

    Args:
        model: Has the part.
        name: Of the part: the model's attribute.
        take: As for `run_steps`.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; made if needed. A run that was interrupted goes on.
        weight_decay: Of the part's matrices.

    Raises:
        ValueError: If the folder holds the state of a run with another recipe.
    """
    part: nn.Module = getattr(model, name)
    model.requires_grad_(False)
    part.requires_grad_(True)
    rate = recipe.learning_rate
    optimizer = adamw(model, lambda _, one: (rate, weight_decay if one.ndim > 1 else 0.0))
    told: Any = recipe
    state = RunState({name: part, "optimizer": optimizer}, asdict(told))
    plan = StepPlan(recipe.steps, recipe.warmup, recipe.seed, _SAVE_EVERY)
    run_steps(take, optimizer, part.parameters(), state, out, plan)
    model.eval().requires_grad_(False)


class AveragedRecipe(PartRecipe, Protocol):
    """What a recipe says, a dataclass, of training a model whose averaged weights are kept."""

    @property
    def weight_decay(self) -> float:
        """Of matrices."""

    @property
    def ema(self) -> float:
        """Decay of the averaged weights."""


def train_averaged(
    model: M,
    take: Callable[[Random], float],
    recipe: AveragedRecipe,
    out: Path,
    save_every: int,
) -> M:
    """Train a model in place and return a copy with averaged weights.

    Args:
        model: As it begins.
        take: As for `run_steps`.
        recipe: Hyper-parameters.
        out: Folder for the state and the log; made if needed. A run that was interrupted goes on.
        save_every: Steps.

    Raises:
        ValueError: If the folder holds the state of a run with another recipe.
    """
    average = copy.deepcopy(model).requires_grad_(False)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    optimizer = adamw(model, lambda _, one: (rate, decay if one.ndim > 1 else 0.0))
    told: Any = recipe
    parts = {"model": model, "average": average, "optimizer": optimizer}

    def averaging(rng: Random) -> float:
        update_average(average, model, recipe.ema)
        return take(rng)

    model.train()
    plan = StepPlan(recipe.steps, recipe.warmup, recipe.seed, save_every)
    run_steps(averaging, optimizer, model.parameters(), RunState(parts, asdict(told)), out, plan)
    return average.eval()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move averaged weights towards those of a model by 1 less the decay."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
