"""What `rheostat elasticize` does with a convolutional classifier: channels ranked, cut, measured.

Channels are put in order on the user's images. Which block is cut how far follows from what each
channel is worth, times a weight of each block that a probe gives; trials around these weights are
scored on the images that choose. Every cut has its own batch statistics, estimated on the images
that fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.elasticize.allocation import Costs, allocate
from models.elasticize.channels import (
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
from models.train.statistics import estimated
from search.offline.material import Material
from search.offline.options import RunOptions
from search.offline.whole import TABLE_PART, Whole
from search.quality.embeddings import scores
from search.quality.items import Batches, Item
from search.quality.table import FloatArray

CHANNEL_RANKINGS: tuple[ChannelRanking, ...] = ("contribution", "magnitude", "random")
_FIT_IMAGES, _SEARCH_IMAGES = 512, 96
_RANKED_KEEP, _PROBED = 0.6, 0.5
_RANKING_PART, _LAST_PART = 0.25, 0.35  # of the time: until the last ranking; for what is left
_SPREAD = 0.5  # of the logarithms of weights
_LEAST = 1e-4  # damage of a probe
_CHOOSING_PART, _LEAST_ROUNDS, _MARGIN = 0.3, 6, 1.5


@dataclass
class FoundChannels:
    """What a run found.

    Attributes:
        model: With its cuts and their statistics.
        ranking: That won.
        rankings: Score on the images that choose, by ranking, at one cut.
        sizes: Of each group, by cut.
        trials: Cuts measured, per budget.
        fitted_on: Images that statistics were estimated on at last.
        seconds: What each part of the run took.
    """

    model: Convnet
    ranking: ChannelRanking
    rankings: Mapping[str, float]
    sizes: Mapping[float, Sizes]
    trials: Mapping[float, int]
    fitted_on: int
    seconds: dict[str, float] = field(default_factory=dict)


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
        """Read the images that fit.

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
        self._costs = Costs(base, self._groups)
        report("reading images")
        fit = material.fit[:_FIT_IMAGES]
        self._many = Batches(base, fit)
        self._few = images_of(Batches(base, fit[:_SEARCH_IMAGES]))
        self._fitted_on = len(fit)
        self._parts: dict[str, float] = {}

    def run(self) -> FoundChannels:
        """Rank, probe, search and estimate."""
        model, ranking, rankings, losses = self._rank()
        self._done("rank")
        weights = self._probe(model)
        self._done("probe")
        sizes, trials = self._search(model, losses, weights)
        self._done("search")
        self._report(f"statistics on {self._fitted_on} images")
        made = self._built(model, sizes, images_of(self._many))
        self._done("statistics")
        return FoundChannels(made, ranking, rankings, sizes, trials, self._fitted_on, self._parts)

    def _spent(self) -> float:
        return self._clock() - self._started

    def _done(self, part: str) -> None:
        self._parts[part] = self._spent() - sum(self._parts.values())

    def _built(
        self, model: Convnet, cuts: Mapping[float, Sizes], batches: Iterable[Tensor]
    ) -> Convnet:
        """Return the model with some cuts and their statistics."""
        made = with_cuts(model, KEEP, self._groups, cuts)
        return estimated(made, [Subnet({KEEP: keep}) for keep in cuts], batches, known=model)

    def _scored(self, model: Convnet, cuts: Mapping[float, Sizes]) -> list[float]:
        """Return the scores of some cuts on the images that choose."""
        made = self._built(model, cuts, self._few)
        subnets = [Subnet({KEEP: keep}) for keep in cuts]
        found = scores(made, TorchBackend(), self._material.choose, subnets)
        return [one.value for one in found]

    def _rank(self) -> tuple[Convnet, ChannelRanking, dict[str, float], list[Tensor]]:
        """Return the model ranked in the best way, what each way is worth, and what is lost."""
        best: tuple[float, Convnet, ChannelRanking, list[Tensor]] | None = None
        found: dict[str, float] = {}
        even = [1.0] * len(self._groups)
        worths: dict[ChannelRanking, list[Tensor]] = {}
        for ranking in CHANNEL_RANKINGS:
            if best is not None and self._spent() > _RANKING_PART * self._seconds:
                break
            self._report(f"ranking: {ranking}")
            worth = importance(ranking, self._base, self._groups, self._few, self._generator)
            worths[ranking] = worth
            model = ranked(self._base, self._groups, worth)
            # Sizes are those of contributions for all, so that only the order differs.
            losses = [own.sort(descending=True).values for own in worth]
            of_sizes = [own.sort(descending=True).values for own in worths["contribution"]]
            sizes = allocate(self._costs, self._groups, of_sizes, even, _RANKED_KEEP)
            (found[ranking],) = self._scored(model, {_RANKED_KEEP: sizes})
            if best is None or found[ranking] > best[0]:
                best = found[ranking], model, ranking, losses
        assert best is not None
        return best[1], best[2], found, best[3]

    def _probe(self, model: Convnet) -> list[float]:
        """Return the weight of each group: what the score loses where half of it is left out."""
        whole = tuple(group.size for group in self._groups)
        cuts: dict[float, Sizes] = {}
        for i, group in enumerate(self._groups):
            half = max(1, round(_PROBED * group.size))
            cuts[(i + 1) / (len(self._groups) + 1)] = (*whole[:i], half, *whole[i + 1 :])
        self._report("probing blocks")
        found = self._scored(model, {**cuts})
        (reference,) = self._reference(model)
        return [max(_LEAST, reference - score) for score in found]

    def _reference(self, model: Convnet) -> list[float]:
        whole = model.space.largest
        return [one.value for one in scores(model, TorchBackend(), self._material.choose, [whole])]

    def _search(
        self, model: Convnet, losses: Sequence[Tensor], weights: Sequence[float]
    ) -> tuple[dict[float, Sizes], dict[float, int]]:
        """Return the best sizes of every budget, and how many were measured for each."""
        halves = [
            float(own[round(_PROBED * group.size) :].sum() / own.sum())
            for own, group in zip(losses, self._groups, strict=True)
        ]
        start = np.array(weights) / np.maximum(halves, _LEAST)
        drawn = {keep: start for keep in self._keep}
        best: dict[float, tuple[float, Sizes]] = {}
        known: dict[float, set[Sizes]] = {keep: set() for keep in self._keep}
        until = (1 - _LAST_PART) * self._seconds
        first = True
        while first or self._spent() < until:
            tried: dict[float, tuple[Sizes, FloatArray]] = {}
            for keep in self._keep:
                own = drawn[keep]
                if not first:
                    own = own * np.exp(_SPREAD * self._rng.standard_normal(len(own)))
                sizes = allocate(self._costs, self._groups, losses, own.tolist(), keep)
                if sizes not in known[keep]:
                    tried[keep] = sizes, own
                    known[keep].add(sizes)
            if not tried:
                break
            self._report(f"searching, round {max(map(len, known.values()))}")
            found = self._scored(model, {keep: sizes for keep, (sizes, _) in tried.items()})
            for (keep, (sizes, own)), score in zip(tried.items(), found, strict=True):
                if keep not in best or score > best[keep][0]:
                    best[keep], drawn[keep] = (score, sizes), own
            first = False
        return (
            {keep: sizes for keep, (_, sizes) in best.items()},
            {keep: len(own) for keep, own in known.items()},
        )


def images_of(batches: Batches) -> list[Tensor]:
    """Return images as they are decoded, batch by batch."""
    found = []
    for batch in batches:
        (images,) = batch.values()
        assert isinstance(images, Tensor)
        found.append(images)
    return found


def whole_of_images(model: Convnet, options: RunOptions, clock: Callable[[], float]) -> Whole:
    """Return the whole model and how many images there is time for.

    Args:
        model: The whole model.
        options: See `RunOptions`.
        clock: In seconds.
    """
    (task,) = model.tasks.values()
    (name,) = model.inputs
    plan = model.plan(model.space.largest, model.inputs.plan_shapes())
    backend, example = TorchBackend(), torch.zeros(8, *model.config.input.shape)

    def timed() -> float:
        started = clock()
        with torch.inference_mode():
            backend.run(plan, {name: example})
        return max(clock() - started, 1e-6) / len(example)

    timed()  # makes what is kept from then on
    pace = timed()

    def answers(items: Sequence[Item]) -> FloatArray:
        batches = Batches(model, items)
        with torch.inference_mode():
            rows = [backend.run(plan, batch)[task.name] for batch in batches]
        return batches.in_order(torch.cat(rows).double().numpy())

    groups = len(groups_of(model))
    round_ = sum(options.keep)  # whole models that a round of cuts costs
    asked = _MARGIN * pace * (_LEAST_ROUNDS * round_ + groups / 2 + len(CHANNEL_RANKINGS))
    return Whole(
        answers=answers,
        task=task,
        tokens=len,
        choosing=_CHOOSING_PART * options.seconds / asked,
        reporting=TABLE_PART * options.seconds / (_MARGIN * pace * (round_ + 1)),
    )


def kept_of(groups: Sequence[Group], sizes: Sizes) -> str:
    """Return what is kept of each group, for people."""
    return " ".join(f"{size}/{group.size}" for group, size in zip(groups, sizes, strict=True))
