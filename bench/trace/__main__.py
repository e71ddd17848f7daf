"""How a server under changing load trades quality for promptness, under several policies.

Arrivals of a real service and random ones of growing burstiness are replayed against real servers
in an open loop. Every request gives the server the same time from its arrival to its answer; what
counts is the share answered in that time and the quality of those answers, beside what a scheduler
that knows every arrival beforehand could reach (`bench.trace.bound`).

Loads are multiples of the rate that a closed loop reaches at the full model. A pattern of arrivals
is drawn once and stretched to each load: --seconds is its length at load 1. Policies take turns in
each load, so that a slow moment of the machine does not always hit the same one. Texts differ and
have one length, so that the time of a request depends on its subnet alone.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bench import report
from bench.peers.process import ServerError
from bench.trace import arrivals, plot, policies, tables
from bench.trace.measure import LEAST_SLO_S, SLO_FACTOR, Settings, measure
from server.settings import data_folder

_PATTERNS = (*arrivals.TRACES, *arrivals.GAMMAS)
# The trace conv is nearly Poisson, which gamma-1 is.
_DEFAULT_PATTERNS = ("code", f"code{arrivals.MEDIAN}", *arrivals.GAMMAS)
_POLICIES = tuple(policies.everyone(1.0))
_LOADS = (0.5, 1.0, 1.5, 2.0, 3.0)


def main() -> None:
    """Measure, and show what was found."""
    chosen = _options()
    torch.set_num_threads(1)
    # Servers are stopped on the way out of an exception; the default would leave them running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found = measure(_settings(chosen))
    except (ValueError, FileNotFoundError, ServerError) as error:
        print(f"bench.trace: {error}", file=sys.stderr)
        sys.exit(2)
    tables.show(found)
    if chosen.csv is not None:
        found.write_csv(chosen.csv)
    if chosen.plot is not None:
        plot.draw(found, chosen.plot)
    report.finish({"trace": found.figures()}, chosen.json, chosen.csv)


def _settings(chosen: argparse.Namespace) -> Settings:
    needs_data = set(chosen.arrivals) & set(arrivals.TRACES)
    settings = Settings(
        model=chosen.model,
        data=data_folder() if needs_data else None,
        patterns=chosen.arrivals,
        loads=chosen.loads,
        policies=chosen.policies,
        seconds=chosen.seconds,
        slo_s=None if chosen.slo_ms is None else chosen.slo_ms / 1000,
        num_tokens=chosen.tokens,
        seeds=chosen.seeds,
        is_simulated=chosen.simulate,
        slow=chosen.slow,
    )
    if not chosen.quick:
        return settings
    return replace(settings, closed_s=1.0, batch_sizes=(16,), timing_s=0.0)


def _options() -> argparse.Namespace:
    options = report.parser(__doc__)
    add = options.add_argument
    add("--csv", type=Path, metavar="FILE", help="also write one line per cell here")
    add("--plot", type=Path, metavar="FILE.png", help="also draw; needs matplotlib")
    add("--seconds", type=float, metavar="S", help="of a pattern at load 1; 5; --quick: 3")
    add("--loads", type=_numbers, metavar="X,...", help=f"default: {_joined(_LOADS)}; --quick: 1,2")
    add(
        "--policies",
        type=_names(_POLICIES),
        metavar="NAMES",
        help=f"of {_joined(_POLICIES)}; default: all; --quick: price,fixed-full",
    )
    add(
        "--arrivals",
        type=_names(_PATTERNS),
        metavar="NAMES",
        help=f"of {_joined(_PATTERNS)}; default: {_joined(_DEFAULT_PATTERNS)}; --quick: gamma-4",
    )
    add(
        "--slo-ms",
        type=_positive,
        metavar="MS",
        help=f"time for each request; default: {SLO_FACTOR} times what one takes alone at the full "
        f"model, at least {1000 * LEAST_SLO_S:g}",
    )
    add("--tokens", type=int, default=32, metavar="N", help="of every text (default: %(default)s)")
    add(
        "--seeds",
        type=_whole,
        default=(0,),
        metavar="N,...",
        help="of texts and random arrivals; each runs all cells once more (default: 0)",
    )
    add("--simulate", action="store_true", help="in virtual time, without servers; seconds a seed")
    add(
        "--slow",
        type=_positive,
        default=1.0,
        metavar="X",
        help="with --simulate: all takes X times as long in half of the time, as beside other work",
    )
    add(
        "--model",
        type=Path,
        default=report.ZOO_TEXT,
        metavar="DIR",
        help="an elastic text checkpoint (default: the shipped one)",
    )
    chosen = options.parse_args()
    quick = chosen.quick
    chosen.seconds = chosen.seconds or (3.0 if quick else 5.0)
    chosen.loads = chosen.loads or ((1.0, 2.0) if quick else _LOADS)
    chosen.policies = chosen.policies or ((policies.PRICE, policies.FULL) if quick else _POLICIES)
    chosen.arrivals = chosen.arrivals or (("gamma-4",) if quick else _DEFAULT_PATTERNS)
    if chosen.plot is not None and not plot.is_possible():
        options.error(plot.NEEDS)
    return chosen


def _joined(values: tuple[object, ...]) -> str:
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(
                f"{', '.join(sorted(unknown))} is none of {', '.join(known)}"
            )
        return names

    return parse


def _whole(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(int(part) for part in text.split(",")))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(dict.fromkeys(_positive(part) for part in text.split(",")))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    main()
