"""What `rheostat elasticize` does with a convolutional classifier: channels ranked, cut, refitted.

Channels are put in order on the user's images. Probes say what the answers lose where half of a
group, or a whole block, is left out; which block is cut how far follows from that and from what
each channel is worth. Trials around these weights are scored on the images that choose. What reads
the channels that are left is fitted to the whole network's sums, in the end on as many images as
the time allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.elasticize.allocation import Costs, allocate
from models.elasticize.channel_refit import ChannelRefit, Observed, observe
from models.elasticize.channels import (
    CHANNEL_RANKINGS,
    ChannelRanking,
    Group,
    Sizes,
    groups_of,
    importance,
    ranked,
    with_cuts,
)
from models.families.convnet import Convnet
from models.formats.image_classifiers import KEEP
from models.space import Subnet
from search.offline.image_pace import LAST_PART, RANKED_KEEP, afforded, answers_of, images_of
from search.offline.material import Material
from search.offline.options import FoundCuts, RunOptions
from search.offline.whole import MARGIN
from search.quality.agreement import agreement
from search.quality.embeddings import Evaluation, scores
from search.quality.items import Batches
from search.quality.table import FloatArray

_MOST_IMAGES, _MAX_BYTES = 4096, 2**31  # that are fitted on; of the whole network's sums there
_HALF, _NONE = 0.5, 0.1  # names of what a probe keeps of a group
_RANKING_PART, _PROBING_PART = 0.2, 0.4  # of the time: no further ranking, or probe, after it
_SPREAD = 0.5  # of the logarithms of weights
_LEAST = 1e-4  # damage of a probe


@dataclass
class FoundChannels(FoundCuts):
    """What a run found.

    Attributes:
        model: With its cuts, fitted.
        sizes: Of each group, by cut.
    """

    model: Convnet
    sizes: Mapping[float, Sizes]


@dataclass
class _Ranked:
    """The model with its channels in some order.

    Attributes:
        model: The whole one.
        losses: Per group, what each channel is worth, descending.
        observed: On the few images that trials are fitted on.
    """

    model: Convnet
    losses: Sequence[Tensor]
    observed: Observed


class ImageRun:
    """One run over a classifier and a user's images."""

    def __init__(
        self,
        base: Convnet,
        material: Material,
        options: RunOptions,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Read the images that trials are fitted on: as many as there is time for.

        Args:
            base: The whole model, with statistics.
            material: The user's data.
            options: See `RunOptions`; rankings of channels are all compared.
            clock: In seconds.
            report: Told what is being done, often.
        """
        self._base, self._material, self._keep = base, material, options.keep
        self._seconds, self._clock, self._report = options.seconds, clock, report
        self._started = clock()
        self._generator = torch.Generator().manual_seed(options.seed)
        self._rng = np.random.default_rng(options.seed)
        self._groups = groups_of(base)
        self._whole = tuple(group.size for group in self._groups)
        self._costs = Costs(base, self._groups)
        self._backend = TorchBackend()
        self._parts: dict[str, float] = {}
        report("reading images")
        count, began = afforded(base, material.fit, options, clock), clock()
        self._few = self._read(count)
        # Of an image, until it can be fitted to.
        self._reading = (clock() - began) / sum(map(len, self._few))
        self._observing = 0.0

    def run(self) -> FoundChannels:
        """Rank, probe, search and fit."""
        best, ranking, rankings = self._rank()
        self._done("rank")
        weights, left_out = self._probe(best)
        self._done("probe")
        sizes, trials = self._search(best, weights, left_out)
        self._done("search")
        made, fitted_on = self._fit(best, sizes)
        self._done("fit")
        return FoundChannels(
            str(ranking), rankings, trials, fitted_on, self._parts, model=made, sizes=sizes
        )

    def _spent(self) -> float:
        return self._clock() - self._started

    def _done(self, part: str) -> None:
        self._parts[part] = self._spent() - sum(self._parts.values())

    def _read(self, count: int) -> list[Tensor]:
        """Return the first images that fit."""
        return images_of(Batches(self._base, self._material.fit[:count]))

    def _cut(self, best: _Ranked, cuts: Mapping[float, Sizes], *, alone: bool = False) -> Convnet:
        """Return the model with some cuts, fitted to the few images."""
        return fitted(best.model, self._groups, cuts, best.observed, alone=alone)

    def _scored(
        self, made: Convnet, cuts: Mapping[float, Sizes], quality: Evaluation
    ) -> list[float]:
        subnets = [Subnet({KEEP: keep}) for keep in cuts]
        return [one.value for one in scores(made, self._backend, quality, subnets)]

    def _rank(self) -> tuple[_Ranked, ChannelRanking, dict[str, float]]:
        """Return the model ranked in the best way, and what each way is worth."""
        best: tuple[_Ranked, ChannelRanking] | None = None
        found: dict[str, float] = {}
        sizes: Sizes | None = None
        for ranking in CHANNEL_RANKINGS:
            if best is not None and self._spent() > _RANKING_PART * self._seconds:
                break
            self._report(f"ranking: {ranking}")
            worth = importance(ranking, self._base, self._groups, self._few, self._generator)
            losses = [own.sort(descending=True).values for own in worth]
            # Sizes are those of contributions for all, so that only the order differs.
            even = [1.0] * len(self._groups)
            sizes = sizes or allocate(self._costs, self._groups, losses, even, RANKED_KEEP)
            model = ranked(self._base, self._groups, worth)
            cut, began = with_cuts(model, KEEP, self._groups, {}), self._clock()
            one = _Ranked(model, losses, observe(model, cut, self._few))
            self._observing = (self._clock() - began) / one.observed.rows
            cuts = {RANKED_KEEP: sizes}
            (found[ranking],) = self._scored(self._cut(one, cuts), cuts, self._material.choose)
            if best is None or found[ranking] > found[best[1]]:
                best = one, ranking
        assert best is not None
        return *best, found

    def _probe(self, best: _Ranked) -> tuple[list[float], list[float]]:
        """Return by group what the answers lose: for all its channels, and without its block.

        The first follows from what they lose for half. What there is no time for is as the mean of
        the others, and no block is left out that was not tried.
        """
        texts = self._material.choose.texts
        whole = agreement("classes", texts, answers_of(self._base, texts))
        halves: dict[int, float] = {}
        left_out = [float("inf")] * len(self._groups)
        for i, group in enumerate(self._groups):
            if halves and self._spent() > _PROBING_PART * self._seconds:
                break
            self._report(f"probing block {i + 1} of {len(self._groups)}")
            tried = {_HALF: max(1, round(_HALF * group.size))}
            if group.alone:
                tried[_NONE] = 0
            cuts = {
                keep: (*self._whole[:i], size, *self._whole[i + 1 :])
                for keep, size in tried.items()
            }
            found = self._scored(self._cut(best, cuts, alone=True), cuts, whole)
            lost = {keep: max(_LEAST, 1 - own) for keep, own in zip(cuts, found, strict=True)}
            own = best.losses[i]
            share = float(own[tried[_HALF] :].sum() / own.sum().clamp(min=1e-30))
            halves[i] = lost[_HALF] / max(share, _LEAST)
            left_out[i] = lost.get(_NONE, left_out[i])
        mean = sum(halves.values()) / len(halves)
        return [halves.get(i, mean) for i in range(len(self._groups))], left_out

    def _search(
        self, best: _Ranked, weights: Sequence[float], left_out: Sequence[float]
    ) -> tuple[dict[float, Sizes], dict[float, int]]:
        """Return the best sizes of every budget, and how many were measured for each."""
        start = np.array([weights, left_out])
        drawn = {keep: start for keep in self._keep}
        chosen: dict[float, tuple[float, Sizes]] = {}
        known: dict[float, set[Sizes]] = {keep: set() for keep in self._keep}
        until, took = (1 - LAST_PART) * self._seconds, 0.0
        while not chosen or self._spent() + took < until:
            began = self._clock()
            tried: dict[float, tuple[Sizes, FloatArray]] = {}
            for keep in self._keep:
                own = drawn[keep]
                if chosen:
                    own = own * np.exp(_SPREAD * self._rng.standard_normal(own.shape))
                sizes = allocate(
                    self._costs, self._groups, best.losses, own[0].tolist(), keep, own[1].tolist()
                )
                if sizes not in known[keep]:
                    tried[keep] = sizes, own
                    known[keep].add(sizes)
            if not tried:
                break
            self._report(f"searching, round {max(map(len, known.values()))}")
            cuts = {keep: sizes for keep, (sizes, _) in tried.items()}
            found = self._scored(self._cut(best, cuts), cuts, self._material.choose)
            for (keep, (sizes, own)), score in zip(tried.items(), found, strict=True):
                if keep not in chosen or score > chosen[keep][0]:
                    chosen[keep], drawn[keep] = (score, sizes), own
            took = self._clock() - began
        return (
            {keep: sizes for keep, (_, sizes) in chosen.items()},
            {keep: len(own) for keep, own in known.items()},
        )

    def _fit(self, best: _Ranked, sizes: Mapping[float, Sizes]) -> tuple[Convnet, int]:
        """Return the chosen cuts, fitted on as many images as there is time for, and how many."""
        self._report("fitting the chosen cuts")
        began = self._clock()
        made = self._cut(best, sizes)
        few = best.observed.rows
        of_image = self._reading + self._observing + (self._clock() - began) / few
        most = int((self._seconds - self._spent()) / (MARGIN * max(1e-9, of_image)))
        most = min(most, _MOST_IMAGES, int(_MAX_BYTES / best.observed.bytes_per_image))
        if most <= few or few >= len(self._material.fit):
            return made, few
        images = self._read(most)
        self._report(f"fitting on {sum(map(len, images))} images")
        observed = observe(best.model, made, images)
        return fitted(best.model, self._groups, sizes, observed), observed.rows


def fitted(
    model: Convnet,
    groups: Sequence[Group],
    cuts: Mapping[float, Sizes],
    observed: Observed,
    *,
    alone: bool = False,
) -> Convnet:
    """Return a model with some cuts, fitted.

    Args:
        model: The whole one, its channels in order.
        groups: Of the model.
        cuts: Channels of each group by share of MACs.
        observed: The model on the images that fit.
        alone: See `ChannelRefit.fit`.
    """
    made = with_cuts(model, KEEP, groups, cuts)
    refit = ChannelRefit(made, observed)
    for keep in cuts:
        refit.fit(Subnet({KEEP: keep}), alone=alone)
    return made
