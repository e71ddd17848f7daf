"""Which answered requests are audited, and what becomes of the promises by what was seen."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from random import Random
from statistics import NormalDist
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from models.space import Subnet
from search.floors import Floors
from search.quality.audit import AgreementSample, Bounds, Seen, part_kept
from search.quality.cells import FloatArray
from server.admitted import Admitted
from server.audit.kept import KeptQueue, KeptRequest, kept_of
from server.catalog import Catalog
from server.engine.item import ItemResult
from server.served import Served
from server.settings import Settings

log = logging.getLogger(__name__)

MOST = 2  # times its share of requests may audits take of their compute
_MOVED = 0.005  # quality: floors that have moved less stay, so that the search can remember
_CONFIDENCE = 0.95  # of each bound
_SAME = 1e-9  # fractions this close are one point of the front


class AuditStats(NamedTuple):
    """What became of audits.

    Attributes:
        kept: Requests that were kept to be compared.
        dropped: Of these, those given up: too many waited, or they were stopped too often.
        compared: Requests compared.
        stopped: Comparisons stopped because a request came.
        failed: Comparisons that ended in an error.
        flops: Of what was run for them.
        waiting: Requests that wait.
        bytes: That these hold.
    """

    kept: int = 0
    dropped: int = 0
    compared: int = 0
    stopped: int = 0
    failed: int = 0
    flops: float = 0.0
    waiting: int = 0
    bytes: int = 0


class PointAudit(NamedTuple):
    """What was seen of one point of a model's front.

    Attributes:
        samples: Requests compared.
        agreement: With the whole model.
        expected: The same on the table's data; None where it is not known.
        ranks: Rank correlation of lists with the whole model's; None if there was none.
        kept: Part of the retention that is left at the lower bound, 0..1; None where nothing is
            expected.
    """

    samples: int
    agreement: Bounds
    expected: float | None
    ranks: Bounds | None
    kept: float | None


class Audit:
    """Keeps a share of answered requests, and what their comparisons showed.

    For one event loop. `server.audit.rerun` runs what is kept.

    Attributes:
        queue: What waits to be compared.
        stats_so_far: Counters, without what waits.
        unaudited: What a promised quality counts by the table alone; None for what is expected.
    """

    def __init__(
        self,
        share: float,
        max_bytes: int,
        confidence: float,
        applies: bool,
        catalog: Catalog,
        chance: Callable[[], float],
        errors: float = 0.0,
    ) -> None:
        """See nothing yet.

        Args:
            share: Of requests that are kept, 0..1; 0 for no audits.
            max_bytes: That what is kept may hold.
            confidence: Of bounds.
            applies: Whether promised qualities go by what is seen.
            catalog: The models; others may come and go.
            chance: Returns random numbers, evenly from 0 to 1.
            errors: Standard errors that a promised quality is below what is expected.
        """
        self.queue = KeptQueue(max_bytes)
        self.stats_so_far = AuditStats()
        self._share, self._confidence, self._applies = share, confidence, applies
        self._catalog = catalog
        self.unaudited = Floors(errors) if errors else None
        self._errors = errors
        self._chance = chance
        self._spent = self._committed = 0.0
        self._seen: WeakKeyDictionary[object, Seen] = WeakKeyDictionary()
        self._floors: WeakKeyDictionary[object, Floors] = WeakKeyDictionary()
        self._points: WeakKeyDictionary[object, FloatArray] = WeakKeyDictionary()

    @classmethod
    def of(cls, settings: Settings, catalog: Catalog) -> Audit:
        """Return the one that settings ask for."""
        return cls(
            settings.audit_share,
            settings.max_audit_bytes,
            _CONFIDENCE,
            settings.audited_quality,
            catalog,
            Random().random,
            NormalDist().inv_cdf(settings.quality_confidence),
        )

    @classmethod
    def off(cls, catalog: Catalog) -> Audit:
        """Return one that keeps nothing."""
        return cls(0.0, 0, 0.5, False, catalog, lambda: 1.0)

    @property
    def stats(self) -> AuditStats:
        """Counters, and what waits."""
        waiting, held = len(self.queue), self.queue.num_bytes
        return self.stats_so_far._replace(waiting=waiting, bytes=held)

    def count(self, **more: float) -> None:
        """Add to counters."""
        before = self.stats_so_far
        self.stats_so_far = before._replace(**{k: getattr(before, k) + v for k, v in more.items()})

    def note(
        self,
        admitted: Admitted,
        served: Served,
        results: Sequence[ItemResult],
        is_list: bool = False,
    ) -> None:
        """Keep an answered request, if its turn has come and there is something to compare.

        Args:
            admitted: The request.
            served: The model.
            results: Of its items.
            is_list: Whether the items are one list, put in order by their answers.
        """
        if not self._share:
            return
        self._spent += admitted.flops
        if self._chance() >= self._share or admitted.question.raw:
            return
        kept = kept_of(admitted, served, results, is_list, self.unaudited)
        if kept is None or self._committed + kept.flops > MOST * self._share * self._spent:
            return
        self.count(kept=1)
        if self.queue.put(kept):
            self._committed += kept.flops
        else:
            self.count(dropped=1)

    def give_up(self, kept: KeptRequest) -> None:
        """Take in that a kept request will not be compared."""
        self._committed -= kept.flops
        self.count(dropped=1)

    def forget(self, served: Served) -> None:
        """Give up what is kept of a model that is served no longer."""
        for kept in self.queue.drop(served.model):
            self.give_up(kept)

    def add(self, served: Served, samples: Sequence[AgreementSample]) -> None:
        """Take in what a comparison showed."""
        seen = self._seen.setdefault(served.model, Seen())
        for sample in samples:
            seen.add(sample)
        if self._applies:
            self._update(served, seen)

    def add_named(self, name: str, samples: Sequence[AgreementSample]) -> None:
        """Take in what another process was shown of a model, if that is served."""
        served = self._catalog.get(name)
        if served is not None:
            self.add(served, [AgreementSample(*one) for one in samples])

    def floors(self, served: Served) -> Floors | None:
        """Return what a promised quality counts; None for what is expected."""
        return self._floors.get(served.model, self.unaudited)

    def points(self, served: Served) -> Mapping[int, PointAudit]:
        """Return what was seen, by point of the model's front."""
        seen = self._seen.get(served.model)
        if seen is None:
            return {}
        found = {}
        for point, own in sorted(seen.points.items()):
            expected = own.expected.mean if own.expected.weight else None
            kept = None
            if expected is not None:
                ratio = np.array(seen.ratio(point, self._confidence))
                kept = float(part_kept(np.array(expected), ratio))
            ranks = own.ranks.bounds(self._confidence) if own.ranks.weight else None
            agreement = own.agreement.bounds(self._confidence)
            found[point] = PointAudit(own.samples, agreement, expected, ranks, kept)
        return found

    def point_of(self, served: Served, subnet: Subnet, fraction: float) -> int:
        """Return a subnet's point of the front, else the last one that costs no more.

        Args:
            served: The model.
            subnet: Of it.
            fraction: Of the largest subnet's MACs.
        """
        for number, point in enumerate(served.front):  # fractions depend on lengths of texts
            if point.subnet == subnet:
                return number
        found = bisect_right(served.front, fraction + _SAME, key=lambda point: point.fraction)
        return max(0, found - 1)

    def _update(self, served: Served, seen: Seen) -> None:
        table, points = served.table, self._points_of(served)
        ratios = {point: seen.ratio(point, self._confidence) for point in set(points.tolist())}
        of_row = np.array([ratios[point] for point in points.tolist()])[:, None]
        kept = {}
        for task, cells in table.cells.items():
            # A cell of which no agreement is known is taken to agree as far as it retains.
            unknown = table.retention(task).clip(0.0, 1.0)
            expected = np.where(np.isnan(cells.known_agreement), unknown, cells.known_agreement)
            kept[task] = part_kept(expected, of_row)
        before = self._floors.get(served.model)
        known = {} if before is None or before.kept is None else before.kept
        if any(np.abs(own - known.get(task, 0.0)).max() > _MOVED for task, own in kept.items()):
            self._floors[served.model] = Floors(self._errors, kept)

    def _points_of(self, served: Served) -> FloatArray:
        """Return the point of the front of each row of the table, shape [rows]."""
        found = self._points.get(served.model)
        if found is None:
            fractions = served.finder.fractions(served.default_tasks)
            last = len(served.front) - 1
            found = np.array(
                [
                    self.point_of(served, row, fractions[row]) if row in fractions else last
                    for row in served.table.rows
                ]
            )
            self._points[served.model] = found
        return found
