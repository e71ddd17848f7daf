"""Figures of rankings by a deadline, beside those of fixed policies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bench import report
from bench.rankers import Body, Cell, Policy

_LATE = 0.01  # of a fixed policy's answers that may be late


def row(
    policy: Policy,
    clients: int,
    deadline_ms: float,
    cell: Cell,
    fixed: Mapping[Policy, Cell],
    tried: Mapping[Policy, Cell],
) -> Body:
    """Return the figures of a cell, beside the best fixed policy that meets its deadline."""
    ndcg, stderr, claims = cell.ndcg
    limit_s = deadline_ms / 1000
    meeting = [  # what was said beforehand alone
        one
        for one, own in tried.items()
        if one.fields["in_stages"] is False
        and len(own.times)
        and (own.times > limit_s).mean() <= _LATE
    ]
    best = max(meeting, key=lambda one: fixed[one].ndcg[0], default=None)
    whole = next(own for one, own in fixed.items() if one.name == "whole for all")
    return {
        "documents": "by id" if policy.is_by_id else "sent",
        "words": float(policy.fields.get("lexical_weight", 0.0)),
        "deadline_ms": deadline_ms,
        "clients": clients,
        "requests": len(cell.times),
        "refused": dict(cell.refused),
        "late": int((cell.times > limit_s).sum()),
        "longest_ms": 1000 * float(cell.times.max(initial=0.0)),
        "median_ms": 1000 * float(np.median(cell.times)) if len(cell.times) else math.nan,
        "ndcg": ndcg,
        "stderr": stderr,
        "claims": claims,
        "of_whole": ndcg / whole.ndcg[0],
        "of_whole_stderr": _paired(cell, whole),
        "expected_overlap": cell.seen,
        "best_fixed": best.name if best else None,
        "best_fixed_ndcg": fixed[best].ndcg[0] if best else math.nan,
        "ahead": ndcg - fixed[best].ndcg[0] if best else math.nan,
        "ahead_stderr": _paired(cell, fixed[best]) if best else math.nan,
    }


def _paired(one: Cell, other: Cell) -> float:
    """Return the standard error of the difference of two means over the same claims."""
    differences = one.scores - other.scores
    known = differences[~np.isnan(differences)]
    return float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan


def show(fixed: Mapping[Policy, Cell], rows: Sequence[Body]) -> None:
    """Print both tables."""
    columns = ["policy", "GFLOPs", "nDCG@10", "± stderr", "n", "median ms", "p99 ms"]
    lines = [
        [
            policy.name,
            own.flops / 1e9,
            *own.ndcg,
            round(1000 * float(np.median(own.times))),
            round(1000 * float(np.quantile(own.times, 0.99))),
        ]
        for policy, own in fixed.items()
        if len(own.times)
    ]
    report.show("without a deadline, one client", columns, lines)
    told = {
        "documents": "documents",
        "words": "words",
        "deadline": "deadline_ms",
        "clients": "clients",
        "n": "requests",
        "late": "late",
        "longest": "longest_ms",
        "median": "median_ms",
        "nDCG@10": "ndcg",
        "±": "stderr",
        "of whole": "of_whole",
        "overlap": "expected_overlap",
        "best fixed in time": "best_fixed",
        "its": "best_fixed_ndcg",
        "ahead": "ahead",
        "± ": "ahead_stderr",
    }
    lines = [
        [round(one[key]) if key.endswith("_ms") else one[key] for key in told.values()]
        for one in rows
    ]
    report.show("in stages, by deadline", list(told), lines)
    for one in rows:
        if one["refused"]:
            print(f"refused at {one['deadline_ms']:g} ms, {one['clients']}: {one['refused']}")


def figures(fixed: Mapping[Policy, Cell], rows: Sequence[Body]) -> Body:
    """Return what is written."""
    return {
        "cells": list(rows),
        "fixed": [
            {
                "policy": policy.name,
                "flops": own.flops,
                "ndcg": own.ndcg[0],
                "stderr": own.ndcg[1],
                "claims": own.ndcg[2],
            }
            for policy, own in fixed.items()
        ],
    }
