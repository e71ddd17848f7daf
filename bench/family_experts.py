"""Claims of experts, on small networks that tell digits under four transformations, the skills."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bench.claims import SEEDS, Claim
from bench.family_mixes import SKILLS
from models.nn.architecture import TransformerConfig
from models.nn.experts import Experts
from models.nn.ragged import Layout, Ragged
from models.train.experts import information

_EXPERTS, _UNITS, _COUNTS, _HIDDEN = 8, 16, (1, 2, 8), 32
_STEPS, _ROWS, _INFORMATION, _LEAST_USE = 150, 128, 0.3, 0.01
_LAYER = TransformerConfig(
    1, _HIDDEN, 1, 1, 1, _HIDDEN, _EXPERTS * _UNITS, activation="relu", max_positions=1
)


class _Digits:
    """Digits under all transformations: what trains, and what is only tested."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=generator)
        x = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
        y = torch.tensor(digits.target)[order]
        every = [change(x, generator) for change in SKILLS.values()]
        self.learned = [(own[:1000], y[:1000]) for own in every]
        self.seen = [own[1000:1200] for own in every]  # whose experts are counted
        self.tested = [(own[1200:], y[1200:]) for own in every]


class _Net(nn.Module):
    """A hidden layer, experts beside it, and classes."""

    def __init__(self, uses: Sequence[Sequence[int]], by_content: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, _HIDDEN), nn.Linear(_HIDDEN, 10)
        held = sorted({one for own in uses for one in own})
        self.experts = Experts(
            _LAYER, _UNITS, uses, held, _COUNTS, experts=_EXPERTS, by_content=by_content
        )

    def hidden(self, x: Tensor) -> Ragged:
        """Return rows of one token each."""
        return Ragged(F.relu(self.stem(x)), Layout([1] * len(x), x.device))

    def forward(self, count: int, x: Tensor, which: Tensor) -> Tensor:
        """Return logits."""
        hidden = self.hidden(x)
        logits: Tensor = self.head(hidden.values + self.experts(count, hidden, which))
        return logits


class _Trained:
    """A network that has learned, and what is asked of it.

    Attributes:
        net: It.
    """

    def __init__(
        self,
        seed: int,
        data: _Digits,
        *,
        weight: float = 0.0,
        is_frozen: bool = False,
        is_hard: bool = False,
        alone: int | None = None,
    ) -> None:
        """Train.

        Args:
            seed: Of weights and draws.
            data: Of all skills.
            weight: Of mutual information in the loss.
            is_frozen: Whether all rows read the first experts.
            is_hard: Whether a row's only expert is that of its skill.
            alone: The only skill that is learned; None for all.
        """
        torch.manual_seed(seed)
        own = [[i] for i, _ in enumerate(SKILLS)] if is_hard else [range(_EXPERTS)] * len(SKILLS)
        own = [[alone]] * len(SKILLS) if alone is not None else own
        self.data, self.net = data, _Net(own, by_content=not is_hard)
        if is_frozen:
            self.net.experts.bias.requires_grad_(False)
            assert self.net.experts.content is not None
            self.net.experts.content.requires_grad_(False)
        learning = [one for one in self.net.parameters() if one.requires_grad]
        optimizer = torch.optim.Adam(learning, 3e-3)
        for step in range(_STEPS):
            loss = self._loss(1 if is_hard else _COUNTS[step % len(_COUNTS)], weight, alone)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            optimizer.step()

    def _loss(self, count: int, weight: float, alone: int | None) -> Tensor:
        which = torch.randint(len(SKILLS), (_ROWS,))
        if alone is not None:  # as many digits as a skill has among all
            which = torch.full((_ROWS // len(SKILLS),), alone)
        picked = torch.randint(1000, which.shape)
        x = torch.stack([own for own, _ in self.data.learned])[which, picked]
        y = self.data.learned[0][1][picked]
        loss = F.cross_entropy(self.net(count, x, which), y)
        if weight:
            worth = self.net.experts.worth(self.net.hidden(x), which)
            loss = loss - weight * information(worth.softmax(1), which)
        return loss

    @torch.no_grad()
    def accuracy(self, count: int, skill: int, given: int | None = None) -> float:
        """Return the share of a skill's test digits that are told right.

        Args:
            count: Experts that are read.
            skill: Of the digits.
            given: That the network is told; None for theirs.
        """
        x, y = self.data.tested[skill]
        which = torch.full((len(x),), skill if given is None else given)
        return float((self.net(count, x, which).argmax(1) == y).float().mean())

    def mean(self, count: int) -> float:
        """Return the mean accuracy over skills."""
        return sum(self.accuracy(count, i) for i, _ in enumerate(SKILLS)) / len(SKILLS)

    @torch.no_grad()
    def kept(self) -> list[list[int]]:
        """Return the experts of each skill that enough of its digits read, two at a time."""
        found = []
        for skill, x in enumerate(self.data.seen):
            hidden, which = self.net.hidden(x), torch.full((len(x),), skill)
            use = self.net.experts.shares(2, hidden, which)[1].float().mean(0)
            found.append((use >= _LEAST_USE).nonzero()[:, 0].tolist())
        return found

    def take_out(self, kept: Sequence[Sequence[int]]) -> float:
        """Return the mean accuracy with two experts, each skill with its own alone."""
        whole, found = self.net.experts, []
        for skill, own in enumerate(kept):
            self.net.experts = whole.only(kept, own)
            found.append(self.accuracy(2, skill))
        self.net.experts = whole
        return sum(found) / len(found)


def experts() -> list[Claim]:
    """Return the claims of experts."""
    names = ("one", "two", "frozen_one", "frozen_two", "left", "all_left", "kept", "kept_without")
    found: dict[str, list[float]] = {name: [] for name in names}
    hard: list[_Trained] = []
    alone: list[float] = []
    for seed in SEEDS:
        data = _Digits(seed)
        learned, without = _Trained(seed, data, weight=_INFORMATION), _Trained(seed, data)
        frozen = _Trained(seed, data, is_frozen=True)
        hard.append(_Trained(seed, data, is_hard=True))
        each = [_Trained(seed, data, is_hard=True, alone=i) for i, _ in enumerate(SKILLS)]
        alone.append(sum(one.accuracy(1, i) for i, one in enumerate(each)) / len(each))
        kept, others = learned.kept(), without.kept()
        values = (
            learned.mean(1),
            learned.mean(2),
            frozen.mean(1),
            frozen.mean(2),
            learned.take_out(kept),
            learned.mean(2) - 0.01,
            sum(map(len, kept)) / len(kept),
            sum(map(len, others)) / len(others),
        )
        for name, value in zip(names, values, strict=True):
            found[name].append(value)
    return _claims(found, hard, alone)


def _claims(found: dict[str, list[float]], hard: list[_Trained], alone: list[float]) -> list[Claim]:
    claim = partial(Claim, "experts")
    layer = hard[0].net.experts
    one, two, every = (layer.macs(count, 1) for count in _COUNTS)
    half = [_EXPERTS / 2] * len(SEEDS)
    told = [run.mean(1) for run in hard]
    wrong = [
        sum(run.accuracy(1, i, (i + 1) % len(SKILLS)) for i, _ in enumerate(SKILLS)) / len(SKILLS)
        for run in hard
    ]
    cheap, first = [one / every] * len(SEEDS), "the first, without gates"
    return [
        claim("1 of 8 read: share of their MACs", "a third", cheap, [1 / 3] * 3, "less", macs=one),
        claim("1 read: accuracy", first, found["one"], found["frozen_one"], "more", macs=one),
        claim("2 read: accuracy", first, found["two"], found["frozen_two"], "more", macs=two),
        claim(
            "experts of a skill, of 8",
            "no mutual information",
            found["kept"],
            found["kept_without"],
            "less",
        ),
        claim("experts of a skill", "half", found["kept"], half, "less", 1e-9),
        claim(
            "others left out: accuracy", "all, less .01", found["left"], found["all_left"], "more"
        ),
        claim("an expert a skill: accuracy", "a network a skill", told, alone, "more", 0.02),
        claim(
            "an expert a skill, wrong one", "right, less .1", wrong, [x - 0.1 for x in told], "less"
        ),
    ]
