"""What is kept of all-MiniLM-L6-v2 when it is cut without training: every ranking, each repair.

Cuts are uniform, at 80, 60, 40 and 25 % of the layers' multiply-accumulates, or, for the row
"search", chosen per layer by `rheostat elasticize`. One ranking permutes the model once; all cuts
read that one permuted model. Repairs: none (the weights that are left), bias (the mean of what was
left out is put into the bias) and ridge (the output maps are fitted anew).

Texts that rank and fit: sentences of STS-Benchmark's train split and of SciFact abstracts that no
claim cites, in equal numbers. Texts that choose: others of the same, by agreement with the whole
model. Reported, and never chosen by: STS-Benchmark's test split (Spearman) and SciFact's dev claims
(nDCG@10) over the abstracts that any of them cites and --documents others, cut at --length tokens.
Seeds draw the texts, the others and what is random.

With --quick, one seed, two rankings, two cuts, few texts.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import report
from bench.cutting import REPAIRS, even, repaired
from bench.minilm import Sizes, Texts, minilm, texts_of
from models.elasticize.ranking import Ranking
from models.elasticize.refit import Maps, run_forms
from models.elasticize.streams import Stack, observe
from models.families.exits import Exits
from search.offline.cuts import Forms
from search.offline.elastic_checkpoint import embed
from search.offline.elasticizing import Run, ranked
from search.offline.material import Material
from search.offline.options import RANKINGS, RunOptions, named
from search.offline.record import Record
from search.offline.trials import Batches, vectors
from search.quality.agreement import AgreementQuality
from search.quality.embeddings import Evaluation
from server.settings import data_folder

SHARES = (0.8, 0.6, 0.4, 0.25)
AIMS = {0.6: 0.99, 0.4: 0.98, 0.25: 0.95}


def main() -> None:
    """Measure, print and write."""
    options = report.parser(__doc__)
    options.add_argument("--seeds", default="0,1,2", help="such as 0,1,2")
    options.add_argument("--seconds", type=float, default=200, help="of each search")
    options.add_argument("--only", choices=("uniform", "search"), help="one of the two parts")
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
    rankings, shares = named(chosen.rankings), list(SHARES)
    if chosen.quick:
        sizes, seeds, shares = Sizes(3000, 60, 10, 48, 60, 15), seeds[:1], [0.6, 0.25]
        rankings = ("contribution", "random")
    found: list[dict[str, Any]] = []
    for seed in seeds:
        model = minilm(sizes.length)
        read = texts_of(data_folder(), seed, sizes)
        whole = whole_scores(model, read)
        if chosen.only != "search":
            found += uniform(model, read, whole, rankings, shares, seed, sizes)
        if chosen.only != "uniform":
            seconds = 8 if chosen.quick else chosen.seconds
            found += searched(model, read, whole, shares, seed, seconds, rankings)
    show(found)
    report.finish({"rows": found, "sizes": asdict(sizes)}, chosen.json)


def whole_scores(model: Exits, read: Texts) -> dict[str, float]:
    """Return the whole model's scores."""
    return {name: one.score(embed(model, one.texts)).value for name, one in read.reported.items()}


def scored(
    model: Any, read: Texts, whole: dict[str, float], forms: Forms, maps: Sequence[Maps]
) -> dict[str, float]:
    """Return the share of the whole model's scores that a cut keeps."""
    stack = Stack(model)
    kept = {}
    for name, one in read.reported.items():
        batches = Batches.of(model, one.texts)
        with torch.no_grad():
            ends = [run_forms(stack.layers, forms, maps, stack.enter(b)) for b in batches.values]
            kept[name] = one.score(vectors(batches, stack.leave, ends)).value / whole[name]
    return kept


def uniform(
    model: Exits,
    read: Texts,
    whole: dict[str, float],
    rankings: Iterable[Ranking],
    shares: Iterable[float],
    seed: int,
    sizes: Sizes,
) -> list[dict[str, Any]]:
    """Score uniform cuts by every ranking and repair."""
    batches = Batches.of(model, read.fit, sizes.fit_tokens)
    stack = Stack(model)
    with torch.no_grad():
        streams = observe(stack.layers, [stack.enter(batch) for batch in batches.values])
    unused = nothing(model, read)
    material = Material(read.fit, unused, unused, "similarity", "agreement", {})
    options = RunOptions(1, seed=seed)
    run = Run(model, "exits", material, options, Record(), time.monotonic)
    found = []
    for ranking in rankings:
        started = time.monotonic()
        permuted = ranked(model, run.importance(ranking, stack, streams))
        took = time.monotonic() - started
        for share in shares:
            forms = even(permuted, share, batches.length)
            for repair in REPAIRS:
                maps = repaired(repair, permuted, streams, forms)
                kept = scored(permuted, read, whole, forms, maps)
                row = {"seed": seed, "ranking": ranking, "repair": repair, "share": share, **kept}
                found.append({**row, "rank_s": round(took, 1)})
                print(row, file=sys.stderr, flush=True)
    return found


def nothing(model: Exits, read: Texts) -> AgreementQuality:
    """Return a measure that uniform cuts have no need of."""
    return AgreementQuality(read.choose[:3], embed(model, read.choose[:3]))


def searched(
    model: Exits,
    read: Texts,
    whole: dict[str, float],
    shares: Sequence[float],
    seed: int,
    seconds: float,
    rankings: Sequence[Ranking],
) -> list[dict[str, Any]]:
    """Score what `rheostat elasticize` finds in some seconds."""
    choose = AgreementQuality(read.choose, embed(model, read.choose))
    material = Material(read.fit, choose, choose, "similarity", "agreement", {})
    options = RunOptions(seconds, tuple(sorted(shares)), tuple(rankings), seed)
    started = time.monotonic()
    run = Run(
        model,
        "exits",
        material,
        options,
        Record(),
        time.monotonic,
        lambda what: print(f"{time.monotonic() - started:6.1f} s {what}", file=sys.stderr),
    )
    result = run.run()
    took = time.monotonic() - started
    found = []
    for share in shares:
        forms = tuple(result.model.config.cut(share))
        subnet = result.model.space.largest | {"keep": share}
        kept = {}
        for name, one in read.reported.items():
            kept[name] = one.score(answers(result.model, subnet, one)).value / whole[name]
        row: dict[str, Any] = {
            "seed": seed,
            "ranking": result.ranking,
            "repair": "search",
            "share": share,
            **kept,
        }
        row |= {
            "seconds": round(took, 1),
            "trials": result.trials[share],
            "fitted_on": result.fitted_on,
            "layers": [(form.kind, form.groups, form.units) for form in forms],
            "rankings": result.rankings,
            "parts": {part: round(s, 1) for part, s in result.seconds.items()},
        }
        print(row, file=sys.stderr, flush=True)
        found.append(row)
    return found


def answers(model: Any, subnet: Any, one: Evaluation) -> Any:
    """Return a subnet's vectors by the plans that the server runs."""
    batches = Batches.of(model, one.texts)
    rows = []
    plan = model.plan(subnet, {"text": (batches.length,)})
    with torch.no_grad():
        for batch in batches.values:
            values: dict[Any, Any] = {"text": batch}
            for step in plan:
                taken = [values[x if isinstance(x, str) else x.identity] for x in step.takes]
                values[step.identity] = step.run(*taken)
            rows.append(values[plan.steps[-1].identity])
    order = torch.tensor(batches.order).argsort()
    return torch.cat(rows)[order].double().numpy()


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
    columns = ["ranking", "repair", "MACs", "STS-B test kept", "SciFact kept", "aim"]
    report.show("Share of the whole model's score, mean and deviation over seeds", columns, rows)


def spread(values: Sequence[float]) -> str:
    """Return the mean and the standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


if __name__ == "__main__":
    main()
