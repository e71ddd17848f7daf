"""What audits saw, as Prometheus is told it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.audit.audit import Audit, PointAudit
from server.observe.metrics import stats_of
from server.served import Served

_LEVELS = {
    "agreement": "Agreement of answers with the whole model's, as audits saw it lately.",
    "agreement_low": "Lower confidence bound of that.",
    "agreement_high": "Upper confidence bound of it.",
    "agreement_expected": "The same agreement on the data that the table was measured on.",
    "rank_agreement": "Rank correlation of lists with those of the whole model.",
    "quality_kept": "Part of the promised quality that is left at the lower confidence bound.",
    "samples": "Requests that were compared for a point of the front.",
}


class AuditMetrics(Collector):
    """Levels by model and point of its front; points that were not audited have none."""

    def __init__(self, catalog: Mapping[str, Served], audit: Audit) -> None:
        """Read an audit of the models of a catalogue."""
        self._catalog, self._audit = catalog, audit

    def collect(self) -> Iterator[Metric]:
        """Yield every level."""
        families = {
            name: GaugeMetricFamily(f"rheostat_audit_{name}", text, labels=["model", "front"])
            for name, text in _LEVELS.items()
        }
        yield from stats_of("audit", self._audit.stats, ("waiting", "bytes"))
        for served in list(self._catalog.values()):
            for point, seen in self._audit.points(served).items():
                for name, value in _values(seen).items():
                    if value is not None:
                        families[name].add_metric([served.name, str(point)], value)
        yield from families.values()


def _values(seen: PointAudit) -> dict[str, float | None]:
    return {
        "agreement": seen.agreement.mean,
        "agreement_low": seen.agreement.low,
        "agreement_high": seen.agreement.high,
        "agreement_expected": seen.expected,
        "rank_agreement": None if seen.ranks is None else seen.ranks.mean,
        "quality_kept": seen.kept,
        "samples": float(seen.samples),
    }
