"""Claims of mixed weights, on small networks that learn digits under four transformations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call

from bench.claims import SEEDS, Claim
from models.families.mixed import mixture

Weights = dict[str, Tensor]
Set = tuple[Tensor, Tensor]

_LABELS = 50  # that coefficients are learned from
_STEPS, _TUNING, _COMPOSING = 400, 150, 200
_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def _turned(x: Tensor, _: torch.Generator) -> Tensor:
    return x.view(-1, 8, 8).rot90(1, (1, 2)).flatten(1)


def _inverted(x: Tensor, _: torch.Generator) -> Tensor:
    return 1 - x


def _shifted(x: Tensor, _: torch.Generator) -> Tensor:
    return x.view(-1, 8, 8).roll(2, 2).flatten(1)


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + 0.4 * torch.randn(x.shape, generator=generator)


SKILLS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "turned": _turned,
    "inverted": _inverted,
    "shifted": _shifted,
    "noisy": _noisy,
}


class _Run:
    """What one seed trains: a base, a skill per transformation, and the data of each."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=self.generator)
        x = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
        y = torch.tensor(digits.target)[order]
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.net.append(nn.Linear(64, 10))
        self.train, self.tested = (x[:1000], y[:1000]), (x[1200:], y[1200:])
        self.few = (x[1000:1200], y[1000:1200])
        start = {name: one.detach().clone() for name, one in self.net.named_parameters()}
        self.base = self.learned(start, self.train, _STEPS)
        self.skills = [
            self.learned(self.base, self.of(self.train, change), _TUNING)
            for change in SKILLS.values()
        ]

    def of(self, data: Set, change: Callable[[Tensor, torch.Generator], Tensor]) -> Set:
        """Return data with a transformation."""
        return change(data[0], self.generator), data[1]

    def learned(self, start: Weights, data: Set, steps: int) -> Weights:
        """Return weights that have learned from some."""
        own = {name: one.clone().requires_grad_() for name, one in start.items()}
        optimizer = torch.optim.Adam(own.values(), 3e-3)
        for _ in range(steps):
            picked = torch.randint(len(data[1]), (64,), generator=self.generator)
            loss = F.cross_entropy(functional_call(self.net, own, data[0][picked]), data[1][picked])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            optimizer.step()
        return {name: one.detach() for name, one in own.items()}

    def mixed(self, shares: Tensor) -> Weights:
        """Return weights with a share of each skill, shape [skills, parameters]."""
        return {
            name: one + sum(shares[k, i] * (s[name] - one) for k, s in enumerate(self.skills))
            for i, (name, one) in enumerate(self.base.items())
        }

    def accuracy(self, weights: Weights, skill: str) -> float:
        """Return the share of the test digits, transformed, that are told right."""
        x, y = self.of(self.tested, SKILLS[skill])
        with torch.no_grad():
            return float((functional_call(self.net, weights, x).argmax(1) == y).float().mean())

    def mean(self, weights: Weights) -> float:
        """Return the mean accuracy over the transformations."""
        return float(np.mean([self.accuracy(weights, skill) for skill in SKILLS]))

    def composed(self, by_block: bool) -> Weights:
        """Return the mix whose shares were learned from a few labels of all transformations."""
        sets = [self.of((self.few[0], self.few[1]), change) for change in SKILLS.values()]
        each = _LABELS // len(sets) + 1
        x = torch.cat([one[0][i * each : (i + 1) * each] for i, one in enumerate(sets)])[:_LABELS]
        y = torch.cat([one[1][i * each : (i + 1) * each] for i, one in enumerate(sets)])[:_LABELS]
        columns = len(self.base) if by_block else 1
        shares = torch.full((len(self.skills), columns), 0.25, requires_grad=True)
        optimizer = torch.optim.Adam([shares], 0.02)
        for _ in range(_COMPOSING):
            weights = self.mixed(shares.expand(-1, len(self.base)))
            loss = F.cross_entropy(functional_call(self.net, weights, x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            optimizer.step()
        return self.mixed(shares.detach().expand(-1, len(self.base)))

    def line(self, first: int, second: int) -> Sequence[Weights]:
        """Return the mixes on the line from one skill to another."""
        found = []
        for share in _POINTS:
            shares = torch.zeros(len(self.skills), len(self.base))
            shares[first], shares[second] = 1 - share, share
            found.append(self.mixed(shares))
        return found


def mixes() -> list[Claim]:
    """Return the claims of mixed weights."""
    ends, blocks, scalars, uniform, monotone = [], [], [], [], []
    for seed in SEEDS:
        run = _Run(seed)
        ends.append(_away(run))
        blocks.append(run.mean(run.composed(by_block=True)))
        scalars.append(run.mean(run.composed(by_block=False)))
        uniform.append(run.mean(run.mixed(torch.full((len(SKILLS), len(run.base)), 0.25))))
        monotone.append(_least_order(run))
    zero, bound = [0.0] * len(SEEDS), [0.9] * len(SEEDS)
    claim = partial(Claim, "mixed")
    return [
        claim("one skill in full: weights that differ", "its own fine-tune", ends, zero, "equal"),
        claim("shares by block, 50 labels: accuracy", "a share a skill", blocks, scalars, "more"),
        claim("a share a skill, 50 labels: accuracy", "a quarter each", scalars, uniform, "more"),
        claim("from skill to skill: least rank order", "0.9", monotone, bound, "more", 1e-6),
    ]


def _away(run: _Run) -> float:
    """Return how many weights of all skills are not given back by a mix of that skill alone."""
    return float(
        sum(
            int((mixture(run.base[name], [(1.0, skill[name])]) != skill[name]).sum())
            for skill in run.skills
            for name in run.base
        )
    )


def _least_order(run: _Run) -> float:
    """Return the least rank correlation of a skill's accuracy with its share, over three lines."""
    names, found = list(SKILLS), []
    for first, second in ((0, 1), (1, 2), (0, 2)):
        line = run.line(first, second)
        for skill, sign in ((first, -1), (second, 1)):
            each = [run.accuracy(weights, names[skill]) for weights in line]
            found.append(sign * float(spearmanr(_POINTS, each).statistic))
    return min(found)
