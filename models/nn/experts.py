"""Experts beside the feed-forward part of a layer: of many, each row has a few run.

A row's *shares* say how much of each expert it gets. They come of what is known of the row: of its
skill alone, or of its skill and of the mean of its tokens. The ``count`` experts of the largest
shares are run, each once for all rows of the batch that read it, and no other.

- Hard routing: shares of the skill alone, one expert.
- Routing by task: shares of the skill alone, several experts.
- Top-k routing: shares of the skill and of the tokens.

Sources: Shazeer et al. 2017, Outrageously Large Neural Networks, arXiv 1701.06538, for top-k gates;
Dai et al. 2022, SkillNet, arXiv 2205.06126, for skills that are given; Zhang et al. 2022,
MoEfication, arXiv 2110.01786, for experts that are groups of feed-forward units; Ye and Xu 2023,
TaskExpert, arXiv 2307.15324, for gates by task and sample.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.nn.architecture import TransformerConfig
from models.nn.ragged import Ragged
from models.nn.transformer import FeedForward, Layer, Place


class Experts(nn.Module):
    """The experts of one layer, or those of them that are held.

    Attributes:
        bias: Of the shares, by skill and then without one, shape [skills + 1, experts].
        content: Of the shares, times the mean of the tokens, shape [experts, hidden]; None: they
            come of the skill alone.
        each: Experts that are held, by number.
        may_read: Experts that a skill may read where it reads as many, shape [counts, skills + 1,
            experts].
    """

    may_read: Tensor

    def __init__(
        self,
        encoder: TransformerConfig,
        units: int,
        uses: Sequence[Sequence[int]],
        held: Sequence[int],
        counts: Sequence[int],
        *,
        experts: int,
        by_content: bool,
    ) -> None:
        """Make experts with random weights, and shares that are equal.

        Args:
            encoder: Of the layer.
            units: Feed-forward units of an expert.
            uses: Of each skill, the experts that are its own.
            held: Experts that there are here; a skill of which some are not may read all of these.
            counts: Of experts that a row may read, ascending.
            experts: In all.
            by_content: Whether shares depend on tokens.
        """
        super().__init__()
        self.units, self.counts = units, tuple(counts)
        self.bias = nn.Parameter(torch.zeros(len(uses) + 1, experts))
        self.content = nn.Parameter(torch.zeros(experts, encoder.hidden)) if by_content else None
        one = replace(encoder, ffn=units)
        self.each = nn.ModuleDict({f"{i}": FeedForward(one) for i in sorted(held)})
        self.register_buffer("may_read", self._readable(uses, held), persistent=False)

    def _readable(self, uses: Sequence[Sequence[int]], held: Sequence[int]) -> Tensor:
        shape = (len(self.counts), len(uses) + 1, self.bias.shape[1])
        found = torch.zeros(shape, dtype=torch.bool)
        for i, count in enumerate(self.counts):
            for skill, own in enumerate([*uses, held]):
                has_own = set(own) <= set(held) and len(own) >= count
                found[i, skill, list(own if has_own else held)] = True
        return found

    def only(self, uses: Sequence[Sequence[int]], held: Sequence[int]) -> Experts:
        """Return the layer with some of its experts: the same tensors.

        Args:
            uses: As when it was made.
            held: Experts that it keeps.
        """
        made = copy.copy(self)
        made._modules = {"each": nn.ModuleDict({f"{i}": self.each[f"{i}"] for i in held})}
        made._buffers = {"may_read": self._readable(uses, held).to(self.bias.device)}
        return made

    def worth(self, x: Ragged, which: Tensor | None) -> Tensor:
        """Return what every expert is worth to each row, whose softmax shares are: see `shares`."""
        own = self.bias[-1].expand(len(x), -1) if which is None else self.bias[which]
        if self.content is None:
            return own
        return own + nn.functional.linear(x.layout.mean(x.values), self.content)

    def shares(self, count: int, x: Ragged, which: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return how much each row gets of each expert, and which ones it reads.

        Equal shares are 1, so that all experts in equal parts are one feed-forward part.

        Args:
            count: Experts that a row reads.
            x: What they take, shape [tokens, hidden].
            which: Skill of each row, int64, shape [rows]; None: no row has one.

        Returns:
            Shares, their sum ``count``, and whether an expert is read, both [rows, experts].
        """
        may_read = self.may_read[self.counts.index(count)]
        is_there = may_read[-1] if which is None else may_read[which]
        worth = self.worth(x, which).masked_fill(~is_there, -torch.inf)
        # Of equal ones the first: a sort may be stable, `topk` is not.
        best = worth.sort(dim=1, descending=True, stable=True).indices[:, :count]
        is_read = torch.zeros_like(worth, dtype=torch.bool).scatter(1, best, True)
        return count * worth.masked_fill(~is_read, -torch.inf).softmax(dim=1), is_read

    def forward(self, count: int, x: Ragged, which: Tensor | None = None) -> Tensor:
        """Return the sum of what experts give, times their shares, shape [tokens, hidden].

        Args:
            count: Experts that a row reads.
            x: Shape [tokens, hidden].
            which: As for `shares`.
        """
        shares, is_read = self.shares(count, x, which)
        rows = x.layout.rows
        found = torch.zeros_like(x.values)
        for name, expert in self.each.items():
            assert isinstance(expert, FeedForward)
            number = int(name)
            tokens = is_read[:, number][rows].nonzero()[:, 0]
            given = expert.down(expert(x.values[tokens], self.units))
            found.index_add_(0, tokens, given * shares[rows[tokens], number, None])
        return found

    def macs(self, count: int, length: int) -> int:
        """Return the multiply-accumulates of one row."""
        routing = 0 if self.content is None else self.content.numel()
        return routing + count * self._one.macs(self.units, length)

    def bytes(self, held: int, is_given: bool) -> int:
        """Return the bytes of the weights of a call: of all experts, each of which may be read.

        Args:
            held: Experts that there are.
            is_given: Whether rows have a skill.
        """
        skills, experts = self.bias.shape
        rows = skills if is_given else 1
        routing = 0 if self.content is None else 4 * self.content.numel()
        one = self._one
        each = one.bytes(self.units, 32) + one.down.bytes(self.units, one.down.out_features, 32)
        return rows * experts * (4 + 1) + routing + held * each

    @property
    def _one(self) -> FeedForward:
        found = next(iter(self.each.values()))
        assert isinstance(found, FeedForward)
        return found


def with_experts(
    layer: Layer,
    experts: Experts,
    count: int,
    groups: int,
    units: int,
    x: Ragged,
    which: Tensor | None = None,
    **maps: nn.Module,
) -> Ragged:
    """Run a layer whose feed-forward part has experts beside it.

    Args:
        layer: Runs.
        experts: Take what its feed-forward part takes.
        count: Experts that a row reads.
        groups: As for `Layer`.
        units: Likewise.
        x: Packed rows, shape [tokens, hidden].
        which: As for `Experts.shares`.
        maps: As for `Layer`.
    """
    read: list[Tensor] = []

    def plus(place: Place, taken: Tensor, given: Tensor) -> Tensor:
        if place == "up":
            read.append(taken)
        if place != "down":
            return given
        added: Tensor = experts(count, x.replace(read.pop()), which)
        return given + added

    found: Ragged = layer(groups, units, x, plus=plus, **maps)
    return found
