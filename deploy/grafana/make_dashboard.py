"""Print the dashboard, which lies beside this file in dashboards/rheostat.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${source}"}
WHERE = 'job=~"$job", instance=~"$instance"'
OF_MODEL = f'{WHERE}, model=~"$model"'
WINDOW = "[$__rate_interval]"
WIDTH, HEIGHT, COLUMNS = 8, 8, 24
QUANTILES = (0.5, 0.95, 0.99)


def ended(pattern: str) -> str:
    """Return the labels of what ended in one of some ways."""
    return f'{OF_MODEL}, outcome=~"{pattern}"'


def rate(metric: str, by: str = "", where: str = OF_MODEL) -> str:
    """Return a query for how fast a counter grows."""
    return f"sum by ({by}) (rate({metric}{{{where}}}{WINDOW}))"


def quantile(q: float, histogram: str, by: str = "", where: str = OF_MODEL) -> str:
    """Return a query for a quantile of a histogram."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', labels, where)})"


def mean(histogram: str, by: str = "", where: str = OF_MODEL) -> str:
    """Return a query for the mean of a histogram."""
    return f"{rate(f'{histogram}_sum', by, where)} / {rate(f'{histogram}_count', by, where)}"


def share(part: str, whole: str, match: str = "") -> str:
    """Return a query for one rate over another that is not 0."""
    return f"{part} / {match}({whole} > 0)"


def panel(
    title: str,
    text: str,
    unit: str,
    queries: Mapping[str, str],
    *,
    is_stacked: bool = False,
    limits: Sequence[float | None] = (0, None),
) -> dict[str, Any]:
    """Return a panel of curves.

    Args:
        title: Above it.
        text: What a reader should know to act on it.
        unit: A unit of Grafana's.
        queries: Expressions by the legend of their curves.
        is_stacked: Whether the curves add up to something.
        limits: Least and greatest value of the axis.
    """
    custom = {
        "fillOpacity": 30 if is_stacked else 0,
        "stacking": {"mode": "normal" if is_stacked else "none"},
        "showPoints": "never",
    }
    bounds = {name: x for name, x in zip(("min", "max"), limits, strict=True) if x is not None}
    return {
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "custom": custom, **bounds}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + k),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
            }
            for k, (legend, query) in enumerate(queries.items())
        ],
    }


def answers() -> Iterator[dict[str, Any]]:
    """Yield the panels about what clients get."""
    yield panel(
        "Requests",
        "By how they ended. Only failed ones are the server's fault.",
        "reqps",
        {"{{outcome}}": rate("rheostat_requests_total", "outcome")},
        is_stacked=True,
    )
    yield panel(
        "Total latency",
        "From the first byte to the answer, of answered requests.",
        "s",
        {
            f"{{{{model}}}} p{100 * q:g}": quantile(
                q, "rheostat_stage_seconds", "model", f'{OF_MODEL}, stage="total"'
            )
            for q in QUANTILES
        },
    )
    yield panel(
        "Latency budgets met",
        "Share of those accepted. Alerts look at misses above 1 %.",
        "percentunit",
        {
            "{{model}}": share(
                rate("rheostat_latency_budgets_total", "model", ended("met")),
                rate("rheostat_latency_budgets_total", "model", ended("met|missed")),
            )
        },
        limits=(0, 1),
    )
    for q in QUANTILES:
        yield panel(
            f"Latency by stage, p{100 * q:g}",
            "Queue grows with load, run with the subnets chosen, decode with the inputs.",
            "s",
            {"{{stage}}": quantile(q, "rheostat_stage_seconds", "stage")},
        )


def subnets() -> Iterator[dict[str, Any]]:
    """Yield the panels about what is chosen."""
    yield panel(
        "Subnets served",
        "By point of the model's Pareto front, 0 the cheapest.",
        "reqps",
        {"{{model}} {{front}}": rate("rheostat_subnets_served_total", "model, front")},
        is_stacked=True,
    )
    yield panel(
        "Quality served",
        "Preference-weighted retention: 1 is what the largest subnet keeps.",
        "percentunit",
        {
            "{{model}} mean": mean("rheostat_quality_served", "model"),
            "{{model}} p5": quantile(0.05, "rheostat_quality_served", "model"),
        },
        limits=(None, 1),
    )
    yield panel(
        "Slimmed and refused",
        "Load first makes subnets smaller (slimmed), then refuses.",
        "percentunit",
        {
            "slimmed": share(
                rate("rheostat_slimmed_requests_total"), rate("rheostat_requests_total")
            ),
            "{{outcome}}": share(
                rate("rheostat_requests_total", "outcome", ended("refused|expired|infeasible")),
                rate("rheostat_requests_total"),
                "on () group_left () ",
            ),
        },
        limits=(0, 1),
    )
    yield panel(
        "Compute by model",
        "FLOPs of answers; shared ones were computed once for several equal inputs.",
        "flops",
        {
            "{{model}}": rate("rheostat_flops_spent_total", "model"),
            "{{model}} shared": rate("rheostat_flops_shared_total", "model"),
        },
    )
    yield panel(
        "Compute by client",
        "FLOPs of answers, by the client whose key was used.",
        "flops",
        {"{{client}}": f"topk(10, {rate('rheostat_client_flops_total', 'client', WHERE)})"},
        is_stacked=True,
    )
    yield panel(
        "Latency budgets",
        "Infeasible ones were refused with what would do.",
        "reqps",
        {"{{outcome}}": rate("rheostat_latency_budgets_total", "outcome")},
        is_stacked=True,
    )


def load() -> Iterator[dict[str, Any]]:
    """Yield the panels about how busy the servers are."""
    yield panel(
        "Queue depth",
        "Inputs admitted and not yet answered.",
        "short",
        {"{{instance}}": f"rheostat_queue_depth{{{WHERE}}}"},
    )
    yield panel(
        "Backlog",
        "Predicted time of everything inside. Requests are refused at max_wait_ms.",
        "s",
        {"{{instance}}": f"rheostat_backlog_seconds{{{WHERE}}}"},
    )
    yield panel(
        "Price of compute",
        "Quality given up for compute worth the mean request's. 0 without load.",
        "short",
        {"{{instance}}": f"rheostat_compute_price{{{WHERE}}}"},
    )
    yield panel(
        "Actual over predicted time",
        "Latency budgets rest on it. Of requests, and of steps lately (drift).",
        "short",
        {
            **{
                f"{{{{model}}}} p{100 * q:g}": quantile(q, "rheostat_latency_ratio", "model")
                for q in QUANTILES[:2]
            },
            "{{model}} drift": f"avg by (model) (rheostat_profile_drift{{{OF_MODEL}}})",
        },
    )
    yield panel(
        "Batch size",
        "Inputs run together.",
        "short",
        {
            "mean": mean("rheostat_batch_size", where=WHERE),
            "p95": quantile(0.95, "rheostat_batch_size", where=WHERE),
        },
    )
    yield panel(
        "Content cache",
        "Share of lookups that found an answer; kept only with max_cache_bytes.",
        "percentunit",
        {
            "hits": share(
                hits := rate("rheostat_cache_hits_total", where=WHERE),
                f"{hits} + {rate('rheostat_cache_misses_total', where=WHERE)}",
            )
        },
        limits=(0, 1),
    )
    yield panel(
        "Content cache, size",
        "What its answers hold.",
        "bytes",
        {"{{instance}}": f"rheostat_cache_bytes{{{WHERE}}}"},
    )
    yield panel(
        "CPU",
        "Seconds of CPU per second.",
        "short",
        {"{{instance}}": rate("process_cpu_seconds_total", "instance", WHERE)},
    )
    yield panel(
        "Memory",
        "Resident: weights, sessions, caches and what is under way.",
        "bytes",
        {"{{instance}}": f"process_resident_memory_bytes{{{WHERE}}}"},
    )
    build = "version, torch, backend, device"
    yield panel(
        "Servers",
        "By what they are made of. More than one kind for longer than a rollout is a mistake.",
        "short",
        {
            "{{version}}, torch {{torch}}, {{backend}} on {{device}}": (
                f"count by ({build}) (rheostat_build_info{{{WHERE}}})"
            )
        },
        is_stacked=True,
    )


def variable(name: str, metric: str) -> dict[str, Any]:
    """Return a choice among the values of a label."""
    return {
        "type": "query",
        "name": name,
        "datasource": SOURCE,
        "query": {"query": f"label_values({metric}, {name})", "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's format."""
    rows = {"What clients get": answers(), "What is chosen": subnets(), "Load": load()}
    panels: list[dict[str, Any]] = []
    y = 0
    for title, group in rows.items():
        panels.append(
            {"type": "row", "title": title, "panels": [], "gridPos": at(0, y, COLUMNS, 1)}
        )
        y += 1
        x = 0
        for one in group:
            if x == COLUMNS:
                x, y = 0, y + HEIGHT
            panels.append({**one, "gridPos": at(x, y, WIDTH, HEIGHT)})
            x += WIDTH
        y += HEIGHT
    return {
        "title": "Rheostat",
        "uid": "rheostat",
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                {"type": "datasource", "name": "source", "query": "prometheus"},
                variable("job", "rheostat_queue_depth"),
                variable("instance", "rheostat_queue_depth"),
                variable("model", "rheostat_requests_total"),
            ]
        },
        "panels": [{"id": k, **one} for k, one in enumerate(panels, 1)],
    }


def at(x: int, y: int, width: int, height: int) -> dict[str, int]:
    """Return a place on the grid."""
    return {"x": x, "y": y, "w": width, "h": height}


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
