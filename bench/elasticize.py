"""What is kept of all-MiniLM-L6-v2 when it is cut without training: every ranking, each repair.

Cuts are uniform, at 80, 60, 40 and 25 % of the layers' multiply-accumulates; for the row "search",
chosen per layer by `rheostat elasticize`; for rows "two orders", by one order of all heads and one
of all units (OPTIN). One ranking permutes the model once; all cuts read that one permuted model,
and without a repair they have no weights of their own. Repairs: none, bias (the mean of what was
left out is put into the bias) and ridge (the output maps are fitted anew). The row "low rank" has
factors in every layer in place of fewer heads and units (`bench.low_rank`).

Texts that rank and fit: sentences of STS-Benchmark's train split, SciFact abstracts that no claim
cites, and sentences of others of these, each with about as many tokens. Texts that choose: others
of the three, similarity's and retrieval's each by agreement with the whole model among its own.
Reported, and never chosen by: STS-Benchmark's test split (Spearman) and SciFact's dev claims
(nDCG@10) over the abstracts that any of them cites and --documents others, cut at --length tokens.
Seeds draw the texts, the others and what is random.

With --quick, one seed, two rankings, two cuts, few texts.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench import report
from bench.cutting import REPAIRS, by_two_orders, even, repaired
from bench.elasticize_search import is_found, score, search
from bench.low_rank import factored
from bench.minilm import Sizes, Texts, minilm, texts_of
from models.elasticize.ranking import Ranking, rank
from models.elasticize.refit import Maps, run_forms
from models.elasticize.streams import Stack, Streams, observe
from models.families.exits import Exits
from search.offline.cuts import Forms
from search.offline.elasticizing import ranked
from search.offline.options import RANKINGS, RunOptions, named
from search.offline.whole import answers_of
from search.quality.items import Batches
from server.settings import data_folder

SHARES = (0.8, 0.6, 0.4, 0.25)
PARTS = ("uniform", "orders", "low-rank", "search")
AIMS = {0.6: 0.99, 0.4: 0.98, 0.25: 0.95}


def main() -> None:
    """Measure, print and write."""
    options = report.parser(__doc__)
    options.add_argument("--seeds", default="0,1,2", help="such as 0,1,2")
    options.add_argument("--seconds", type=float, default=250, help="of each search")
    options.add_argument("--only", choices=PARTS, help="one of the parts")
    options.add_argument(
        "--models", type=Path, help="keeps what searches find; what is there is not searched again"
    )
    options.add_argument("--later", action="store_true", help="searches, and scores in a later run")
    options.add_argument("--rankings", help=f"default {','.join(RANKINGS)}")
    for name, default in asdict(Sizes()).items():
        options.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    options.add_argument("--join", type=Path, nargs="+", help="print the rows of earlier files")
    chosen = options.parse_args()
    if chosen.join:
        rows = [row for path in chosen.join for row in json.loads(path.read_text())["rows"]]
        show(rows)
        report.finish({"rows": rows}, chosen.json)
        return
    sizes = Sizes(**{name: getattr(chosen, name) for name in asdict(Sizes())})
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    rankings, shares, seconds = named(chosen.rankings), list(SHARES), chosen.seconds
    if chosen.quick:
        sizes, seeds, shares = Sizes(3000, 60, 10, 48, 60, 15), seeds[:1], [0.6, 0.25]
        rankings, seconds = ("contribution", "random"), 8
    with TemporaryDirectory() as temporary:
        folder = chosen.models or Path(temporary)
        found = measured(seeds, sizes, rankings, shares, seconds, folder, chosen)
    show(found)
    report.finish({"rows": found, "sizes": asdict(sizes)}, chosen.json)


def measured(
    seeds: Sequence[int],
    sizes: Sizes,
    rankings: Sequence[Ranking],
    shares: Sequence[float],
    seconds: float,
    folder: Path,
    chosen: Namespace,
) -> list[dict[str, Any]]:
    """Return the rows of every seed."""
    found: list[dict[str, Any]] = []
    for seed in seeds:
        model = minilm(sizes.length)
        read = texts_of(data_folder(), seed, sizes)
        whole = {} if chosen.later else whole_scores(model, read)
        parts = [chosen.only] if chosen.only else PARTS
        if "uniform" in parts:
            found += uniform(model, read, whole, rankings, shares, seed, sizes)
        if "orders" in parts:
            some = (rankings[:1], shares[:1]) if chosen.quick else (rankings, shares)
            found += uniform(model, read, whole, *some, seed, sizes, by_orders=True)
        if "low-rank" in parts:
            found += low_rank(model, read, whole, shares, seed, sizes)
        if "search" in parts:
            out = folder / f"seed-{seed}"
            if not is_found(out):
                options = RunOptions(seconds, tuple(sorted(shares)), tuple(rankings), seed)
                search(model, read, options, out)
            if not chosen.later:
                found += score(out, read, whole, shares, seed, sizes.length)
    return found


def whole_scores(model: Exits, read: Texts) -> dict[str, float]:
    """Return the whole model's scores."""
    found = {}
    for name, one in read.reported.items():
        score = one.score(answers_of(model, one.texts))
        print(f"whole model, {name}: {score}", file=sys.stderr, flush=True)
        found[name] = score.value
    return found


def scored(
    model: Any, read: Texts, whole: dict[str, float], forms: Forms, maps: Sequence[Maps]
) -> dict[str, float]:
    """Return the share of the whole model's scores that a cut keeps."""
    stack = Stack(model)
    kept = {}
    for name, one in read.reported.items():
        batches = Batches(model, one.texts)
        with torch.no_grad():
            rows = [
                stack.leave(run_forms(stack.layers, forms, maps, stack.enter(b))) for b in batches
            ]
        answers = batches.in_order(torch.cat(rows).double().numpy())
        kept[name] = one.score(answers).value / whole[name]
    return kept


def uniform(
    model: Exits,
    read: Texts,
    whole: dict[str, float],
    rankings: Iterable[Ranking],
    shares: Iterable[float],
    seed: int,
    sizes: Sizes,
    by_orders: bool = False,
) -> list[dict[str, Any]]:
    """Score cuts of one permuted model, by every ranking and repair.

    Args:
        model: The whole one.
        read: The texts.
        whole: Its scores.
        rankings: Of heads and units.
        shares: Of the layers' MACs.
        seed: Of what is drawn.
        sizes: How much is read.
        by_orders: Whether layers get what two orders over all of them say; else all get the same.
    """
    stack = Stack(model)
    streams, length = streams_of(model, read, sizes)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for ranking in rankings:
        started = time.monotonic()
        importance = rank(ranking, stack, streams, generator)
        permuted = ranked(model, importance)
        took = time.monotonic() - started
        name = f"{ranking}, two orders" if by_orders else ranking
        for share in shares:
            if by_orders:
                forms = by_two_orders(permuted, importance, share, length)
            else:
                forms = even(permuted, share, length)
            for repair in ("none", "ridge") if by_orders else REPAIRS:
                maps = repaired(repair, permuted, streams, forms)
                kept = scored(permuted, read, whole, forms, maps)
                row = {"seed": seed, "ranking": name, "repair": repair, "share": share, **kept}
                found.append({**row, "rank_s": round(took, 1)})
                print(row, file=sys.stderr, flush=True)
    return found


def streams_of(model: Exits, read: Texts, sizes: Sizes) -> tuple[Streams, int]:
    """Return what cuts are fitted to, and the tokens of a typical text."""
    batches = Batches(model, read.fit, sizes.fit_tokens)
    stack = Stack(model)
    with torch.no_grad():
        return observe(stack.layers, [stack.enter(batch) for batch in batches]), batches.length


def low_rank(
    model: Exits,
    read: Texts,
    whole: dict[str, float],
    shares: Iterable[float],
    seed: int,
    sizes: Sizes,
) -> list[dict[str, Any]]:
    """Score low-rank factors in every layer."""
    streams, length = streams_of(model, read, sizes)
    found = []
    for share in shares:
        made = factored(model, streams, share, length)
        kept = {
            name: one.score(answers_of(made, one.texts)).value / whole[name]
            for name, one in read.reported.items()
        }
        found.append(
            {"seed": seed, "ranking": "low rank", "repair": "ridge", "share": share, **kept}
        )
        print(found[-1], file=sys.stderr, flush=True)
    return found


def show(found: Sequence[dict[str, Any]]) -> None:
    """Print the mean and spread over seeds of every row."""
    keys = dict.fromkeys((row["ranking"], row["repair"], row["share"]) for row in found)
    if any(row["repair"] == "search" for row in found):  # seeds may have different winners
        keys = dict.fromkeys(
            ("best" if repair == "search" else ranking, repair, share)
            for ranking, repair, share in keys
        )
    rows = []
    for ranking, repair, share in keys:
        own = [
            row
            for row in found
            if (row["repair"], row["share"]) == (repair, share)
            and ranking in (row["ranking"], "best")
        ]
        aim = AIMS.get(share)
        rows.append(
            [
                ranking,
                repair,
                f"{100 * share:.0f} %",
                *(spread([row[name] for row in own]) for name in ("STS-B", "SciFact")),
                f"{100 * aim:.0f} %" if aim and repair == "search" else "",
            ]
        )
    seeds = sorted({row["seed"] for row in found})
    columns = ["ranking", "repair", "MACs", "STS-B test kept", "SciFact kept", "aim"]
    report.show(
        f"Share of the whole model's score, mean and standard error over seeds: {seeds}",
        columns,
        rows,
    )


def spread(values: Sequence[float]) -> str:
    """Return the mean, and its standard error where there are several values."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) / len(values) ** 0.5:.4f}"


if __name__ == "__main__":
    main()
