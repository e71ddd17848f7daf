"""What `rheostat elasticize` does: a trained model in, an elastic checkpoint with its front out.

Rankings are compared on the user's data and the best one is kept. Probes say how much each layer
matters, a knapsack and trials around it find a cut for every budget, and what is kept is fitted
again on as many texts as the minutes allow. No gradient is needed, except by one of the rankings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from models.elasticize.assembling import Cut, assemble
from models.elasticize.damage import unexplained
from models.elasticize.ranking import Ranking, rank, work
from models.elasticize.refit import Refit
from models.elasticize.streams import Stack, Streams, observe
from models.families.pruned import LayerForm
from models.train.ranking import Importance, rank_units
from search.offline.cuts import (
    PARTS,
    BestCut,
    Candidate,
    Forms,
    cheapest_damage,
    macs_of,
    menu,
    probes,
    try_more,
    weights_of,
)
from search.offline.material import Material
from search.offline.options import Found, RunOptions
from search.offline.record import Record
from search.offline.trials import Trials
from search.offline.whole import seconds_per_token
from search.quality.embeddings import Evaluation
from search.quality.items import Batches, Item
from search.quality.table import FloatArray

_SEARCH_TOKENS, _LEAST_TOKENS = 10_000, 500  # that trials are fitted on
_SEARCH_PART, _PROBES_PART = 0.25, 0.15  # of the time: for the first cut of each budget; for probes
_PROBE_TEXTS, _LEAST_TEXTS = 150, 20
_MARGIN = 1.5  # for what is slower than the whole model was at first
_MAX_STREAM_BYTES = 2**30
_RANKING_PART = 0.2  # of the time; no further ranking is tried after it
_LAST_PART = 0.45  # of the time: for fitting what was chosen again, and for the table
_RANKED_KEEP = 0.4  # where rankings are compared


class Run:
    """One run over a model and a user's data."""

    def __init__(
        self,
        base: Any,
        family: str,
        material: Material,
        options: RunOptions,
        record: Record,
        clock: Callable[[], float],
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take what the run goes by.

        Args:
            base: The whole model; nothing about it but the size of its answer is elastic.
            family: Of the base.
            material: The user's data.
            options: See `RunOptions`.
            record: Of an earlier run's trials; new ones are added.
            clock: In seconds.
            report: Told what is being done, often.
        """
        self._base, self._family, self._options = base, family, options
        self._material, self._record = material, record
        self._clock, self._report = clock, report
        self._started = clock()
        self._rng = np.random.default_rng(options.seed)
        self._seconds: dict[str, float] = {}
        self._pace = 0.0

    def run(self) -> Found:
        """Rank, search and refit."""
        whole = Stack(self._base)
        self._pace = _MARGIN * seconds_per_token(self._base, self._material.fit, self._clock)
        # Each layer is run and fitted by the ranking, by three probes and by what the probes need.
        passes = 8 + 2 * sum(self._options.keep)
        most = _SEARCH_PART * self._options.seconds / self._pace / passes
        most = max(_LEAST_TOKENS, min(_SEARCH_TOKENS, int(most)))
        few = Batches(self._base, self._material.fit, most)
        with torch.no_grad():
            streams = observe(whole.layers, [whole.enter(batch) for batch in few])
        length = few.length
        self._done("observe")
        model, ranking, rankings = self._rank(whole, streams)
        self._done("rank")
        chosen, counts = self._search(model, streams, length)
        self._done("search")
        cuts, tokens = self._fit(Stack(model), chosen, streams)
        self._done("fit")
        made = assemble(model, self._family, cuts)
        return Found(ranking, rankings, counts, tokens, self._seconds, made, length)

    def _spent(self) -> float:
        return self._clock() - self._started

    def _done(self, part: str) -> None:
        self._seconds[part] = self._spent() - sum(self._seconds.values())

    def _rank(self, whole: Stack, streams: Streams) -> tuple[Any, Ranking, dict[str, float]]:
        """Return the model ranked in the best way, and what each way is worth."""
        known = self._record.rankings
        best: tuple[float, Any, Ranking] | None = None
        found: dict[str, float] = {}
        evaluation: Evaluation | None = None
        ways = [known.winner] if known.winner else list(self._options.rankings)
        for ranking in ways:
            asked = self._pace * (work(ranking, whole.layers, streams) + streams.tokens)
            if best and self._spent() + asked > _RANKING_PART * self._options.seconds:
                continue
            self._report(f"ranking: {ranking}")
            model = ranked(self._base, self.importance(ranking, whole, streams))
            if known.winner:
                return model, ranking, dict(known.scores)
            if len(ways) == 1:
                return model, ranking, {}
            trials = Trials(Stack(model), model, streams, self._few_texts())
            evaluation = evaluation or trials.agreement()
            forms = uniform(whole, _RANKED_KEEP)
            found[ranking] = evaluation.score(trials.vectors(forms)).value
            if best is None or found[ranking] > best[0]:
                best = (found[ranking], model, ranking)
        assert best is not None
        self._record.add_rankings(best[2], found)
        return best[1], best[2], found

    def importance(self, ranking: Ranking, whole: Stack, streams: Streams) -> list[Importance]:
        """Return what heads and units are worth by a ranking."""
        generator = torch.Generator().manual_seed(self._options.seed)
        return rank(ranking, whole, streams, generator)

    def _few_texts(self) -> Sequence[Item]:
        """Return some of the items that choose, for what needs a finer measure than many items."""
        items = self._material.choose.texts
        length = Batches(self._base, items).tokens / len(items)
        # A probe runs half of the layers.
        probes = len(PARTS) * len(Stack(self._base).layers) / 2
        most = int(_PROBES_PART * self._options.seconds / self._pace / probes / length)
        count = max(_LEAST_TEXTS, min(_PROBE_TEXTS, most))
        return items[:: max(1, len(items) // count)]

    def _search(
        self, model: Any, streams: Streams, length: int
    ) -> tuple[dict[float, Forms], dict[float, int]]:
        """Return the best cut of every budget, and how many were measured for each."""
        self._report("probing layers")
        stack, choose = Stack(model), self._material.choose
        layers = stack.layers
        left = unexplained(layers, streams)
        menus = [menu(layer, own, length) for layer, own in zip(layers, left, strict=True)]
        weights = self._weights(Trials(stack, model, streams, self._few_texts()), left)
        trials = Trials(stack, model, streams, choose.texts)
        whole = (LayerForm("whole"),) * len(layers)
        total = macs_of(whole, layers, length)
        best: dict[float, BestCut] = {}

        def measure(keep: float) -> Callable[[Forms], float]:
            return lambda forms: self._record.measured(
                forms, lambda: choose.score(trials.vectors(forms)).value, keep
            )

        for keep in reversed(self._options.keep):
            self._report(f"searching at {keep:g}")
            forms = cheapest_damage(menus, weights, keep * total)
            best[keep] = BestCut(forms, measure(keep)(forms), weights)
            for forms in self._record.of(keep):  # of an earlier run
                score = measure(keep)(forms)
                if score > best[keep].score:
                    best[keep] = BestCut(forms, score, weights)
            best[keep].trials = len(self._record.of(keep))
        self._improve(best, menus, total, measure)
        return (
            {keep: best[keep].forms for keep in self._options.keep},
            {keep: best[keep].trials for keep in self._options.keep},
        )

    def _weights(self, trials: Trials, left: Sequence[Any]) -> FloatArray:
        """Return what probes say of each layer's parts, shape [layers, 3]."""
        layers = trials.stack.layers
        tried = probes(layers)
        evaluation = trials.agreement()
        damages = np.zeros((len(layers), len(PARTS)))
        for i, forms in enumerate(tried):
            self._report(f"probing layer {i + 1} of {len(layers)}")
            for j, form in enumerate(forms):
                cut = [LayerForm("whole")] * len(layers)
                cut[i] = form
                # Alone: later layers stay as they are.
                (own,) = trials.fit(cut[: i + 1])[i:]
                maps = [own if n == i else () for n in range(len(layers))]
                damages[i, j] = 1 - evaluation.score(trials.vectors(cut, maps)).value
        return weights_of(tried, damages, left)

    def _improve(
        self,
        best: dict[float, BestCut],
        menus: Sequence[Sequence[Candidate]],
        total: int,
        measure: Callable[[float], Callable[[Forms], float]],
    ) -> None:
        """Measure further cuts, budget after budget, until the time for the last part has come."""
        until = (1 - _LAST_PART) * self._options.seconds
        most = self._options.trials
        while True:
            before = {keep: own.trials for keep, own in best.items()}
            for keep in self._options.keep:
                if most is not None and best[keep].trials >= most:
                    continue
                if self._spent() >= until:
                    return
                self._report(f"searching at {keep:g}, cut {best[keep].trials + 1}")
                best[keep] = try_more(
                    best[keep],
                    menus,
                    keep * total,
                    measure(keep),
                    self._record.knows,
                    self._rng,
                )
            if before == {keep: own.trials for keep, own in best.items()}:
                return

    def _fit(self, stack: Stack, chosen: dict[float, Forms], few: Streams) -> tuple[list[Cut], int]:
        """Fit the chosen cuts on as many texts as there is time for."""
        started = self._clock()
        first = min(chosen)
        self._report("fitting the chosen cuts")
        maps = {first: Refit(stack.layers, few).fit(chosen[first])}
        speed = few.tokens / max(1e-9, self._clock() - started)
        # Observing is one pass, and the cheapest cut took the least of all.
        left = 0.7 * (self._options.seconds - self._spent())
        most = int(left * speed / (1.5 * (len(chosen) + 1)))
        config = stack.layers[0].attention.config
        of_token = 2 * 4 * config.hidden * len(stack.layers)
        most = min(most, _MAX_STREAM_BYTES // of_token)
        streams = few
        if most > few.tokens:
            many = Batches(self._base, self._material.fit, most)
            with torch.no_grad():
                streams = observe(stack.layers, [stack.enter(batch) for batch in many])
            maps = {}
        refit = Refit(stack.layers, streams)
        cuts = []
        for keep, forms in chosen.items():
            self._report(f"fitting {keep:g} on {streams.tokens} tokens")
            cuts.append(Cut(keep, forms, maps.get(keep) or refit.fit(forms)))
        return cuts, streams.tokens


def ranked(base: Any, importance: Sequence[Importance]) -> Any:
    """Return a copy of a model with its heads and units in the order of what they are worth."""
    model = copy.deepcopy(base)
    rank_units(model, importance)
    return model


def uniform(stack: Stack, keep: float) -> Forms:
    """Return a cut that keeps about a share of the heads and of the units of every layer."""
    return tuple(
        LayerForm(
            "narrow",
            max(1, round(keep * layer.attention.config.kv_heads)),
            max(1, round(keep * layer.attention.config.ffn)),
        )
        for layer in stack.layers
    )
