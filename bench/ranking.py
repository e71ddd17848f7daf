"""Rankings that meet a deadline: how good they are, beside policies that are fixed beforehand.

SciFact's dev claims, each with its 100 first documents by BM25, in the order of their numbers,
which says nothing. A server in a process of its own ranks them for clients that ask at once, each
one request at a time; times are the clients', from the first byte sent to the last byte read. A
fixed policy gives every document the same subnet (the static exit, or one by its share of the
compute), or the whole model to the first few by BM25 and none to the others, which follow. Every
policy is asked with each weight of the query's words (`lexical_weight`). It meets a deadline under
some number of clients if no more than one in a hundred of its answers was late.

Reported: nDCG@10 with its standard error over claims, late answers, and times. What no candidate
answers counts as 0 for all.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bench import report
from bench.bm25 import Bm25
from bench.notebook import Notebook
from bench.peers.process import Launch, running
from bench.rankers import CANDIDATES, Asking, Body, Cell, Lists, Policy
from bench.ranking_tables import figures, row, show
from models.train import texts
from server.settings import data_folder

_LEAST_SHARE = 0.1  # of the compute that is spent in stages as well
_TRIES = 4  # of each client
_REST_S, _QUICK_REST_S = 120, 3  # at most, while the server builds what runs faster


def fixed_policies(
    shares: Sequence[float], firsts: Sequence[int], weights: Sequence[float] = (0.0,)
) -> list[Policy]:
    """Return the policies without a clock: what each document gets is said beforehand, or not.

    Args:
        shares: Of the compute, for all documents.
        firsts: Documents by BM25 that get the whole model.
        weights: Of the query's words, each with every policy.
    """

    def at(share: float) -> Body:
        return {"in_stages": False, "budget": {"fraction": share, "strict": True}}

    found = [Policy("whole for all", {"in_stages": False})]
    found += [Policy(f"{share:.3g} of the compute for all", at(share)) for share in shares]
    found += [
        Policy(f"{share:.3g} of the compute in stages", {**at(share), "in_stages": True})
        for share in shares
        if share >= _LEAST_SHARE
    ]
    found += [Policy(f"whole for the first {n}", {"in_stages": False}, n) for n in firsts]
    return [with_words(one, weight) for weight in weights for one in found]


def with_words(policy: Policy, weight: float) -> Policy:
    """Return a policy that lets the query's words count."""
    if not weight:
        return policy
    fields = {**policy.fields, "lexical_weight": weight}
    return replace(policy, name=f"{policy.name}, words {weight:g}", fields=fields)


def main() -> None:
    """Ask, print and write."""
    chosen = _chosen()
    cells = [(float(one), False) for one in chosen.deadlines.split(",") if one]
    cells += [(float(one), True) for one in chosen.by_id.split(",") if one]
    lists = scifact(chosen.claims, chosen.candidates)
    model = chosen.model or json.loads((_only(chosen.models) / "manifest.json").read_text())["name"]
    command = (sys.executable, "-m", "server", "serve", "--port", "{port}")
    launch = Launch((*command, "--models", str(chosen.models.resolve())))
    warm = json.dumps({"model": model, "input": "warm"}).encode()
    firsts = [int(one) for one in chosen.firsts]
    policies = fixed_policies(_numbers(chosen.shares), firsts, chosen.words)
    order = shuffled(len(lists.candidates), chosen.seed)
    every = list(itertools.islice(order(), len(lists.candidates)))
    about = {
        "model": model,
        "claims": len(every),
        "candidates": chosen.candidates,
        "seconds": str(chosen.seconds),
        "seed": chosen.seed,
    }
    notebook = Notebook(about, chosen.json, chosen.resume)
    with running(launch, report.machine()["cores"], warm) as server:
        server.rest(_QUICK_REST_S if chosen.quick else _REST_S)
        asking = Asking(server, lists, model)

        def ask(policy: Policy, clients: int, claims: Sequence[int]) -> Cell:
            where = ", by id" if policy.is_by_id else ""
            name = f"{policy.name}{where}, {clients} at once, {len(claims)} asked"
            if policy.is_by_id and name not in notebook.cells:
                asking.keep()
            cell = Cell.of(
                notebook.cell(
                    name, lambda: asking.cell(policy, clients, claims, chosen.seconds).figures
                )
            )
            print(f"{name}: {cell.told}", flush=True)
            return cell

        fixed = {policy: ask(policy, 1, every) for policy in policies}
        rows = []
        for count in map(int, chosen.clients.split(",")):
            tried = beside(ask, fixed, count, max(one for one, _ in cells), every)
            for (deadline_ms, is_by_id), weight in itertools.product(cells, chosen.words):
                if is_by_id and weight:
                    continue  # an index keeps vectors, and no words
                budget = {"budget": {"latency_ms": deadline_ms}}
                policy = Policy(f"{deadline_ms:g} ms", budget, is_by_id=is_by_id)
                policy = with_words(policy, weight)
                ask(policy, count, every[: 2 * count])  # which learns how long it takes
                cell = ask(policy, count, list(itertools.islice(order(), chosen.requests)))
                rows.append(row(policy, count, deadline_ms, cell, fixed, tried))
    show(fixed, rows)
    report.finish(figures(fixed, rows), None)
    notebook.write(figures(fixed, rows))


def _chosen() -> Any:
    """Return the options."""
    options = report.parser(__doc__)
    options.add_argument("--models", type=Path, default=report.ZOO_TEXT, help="folder to serve")
    options.add_argument("--model", help="to ask, where several are served")
    options.add_argument("--requests", type=int, default=500, help="of each cell with a deadline")
    options.add_argument("--deadlines", default="300,1000,3000", help="milliseconds")
    options.add_argument("--clients", default="1,5")
    options.add_argument("--shares", default="0.001,0.25,0.4,0.5,0.6,0.8", help="of the compute")
    options.add_argument("--firsts", type=_numbers, default=[5, 10, 20, 50], help="by BM25 alone")
    options.add_argument(
        "--words", type=_numbers, default=[0.0, 0.5], help="weights of the query's words"
    )
    options.add_argument("--by-id", default="100,300", help="deadlines of documents kept there")
    options.add_argument("--claims", type=int, help="the first so many; default: all")
    options.add_argument("--candidates", type=int, default=CANDIDATES, help="of each claim")
    options.add_argument("--seed", type=int, default=0, help="of the order of claims")
    options.add_argument("--seconds", type=float, default=math.inf, help="of a cell, about")
    options.add_argument("--resume", action="store_true", help="go on with what --json FILE has")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.requests, chosen.deadlines, chosen.clients, chosen.shares = 6, "300,1000", "1", "0.5"
        chosen.firsts, chosen.claims, chosen.by_id, chosen.seconds = [10], 3, "100", 3.0
        chosen.candidates = 20
    return chosen


def _numbers(text: str) -> list[float]:
    return [float(one) for one in text.split(",") if one]


def beside(
    ask: Callable[[Policy, int, Sequence[int]], Cell],
    fixed: Mapping[Policy, Cell],
    clients: int,
    most_ms: float,
    claims: Sequence[int],
) -> Mapping[Policy, Cell]:
    """Return what fixed policies do for some clients at once, those that may be in time at all."""
    if clients == 1:
        return fixed
    return {
        policy: ask(policy, clients, claims[: _TRIES * clients])
        for policy, own in fixed.items()
        if len(own.times) and 1000 * float(np.median(own.times)) < most_ms
    }


def _only(folder: Path) -> Path:
    """Return the only checkpoint of a folder, or the folder that is one."""
    return (
        folder
        if (folder / "manifest.json").exists()
        else next(folder.glob("*/manifest.json")).parent
    )


def scifact(num_claims: int | None, candidates: int = CANDIDATES) -> Lists:
    """Return the dev claims with their candidates; end with code 2 without the data."""
    try:
        data = texts.scifact(data_folder(), "dev")
    except (ValueError, FileNotFoundError) as error:
        print(f"this benchmark needs SciFact: {error}", file=sys.stderr)
        sys.exit(2)
    ranker = Bm25(data.documents)
    queries = data.queries[:num_claims]
    return Lists(data, [ranker.first(query, candidates) for query in queries])


def shuffled(count: int, seed: int) -> Callable[[], Iterator[int]]:
    """Return what yields numbers in a random order, over and over, the same each time."""
    order = list(range(count))
    Random(seed).shuffle(order)
    return lambda: itertools.cycle(order)


if __name__ == "__main__":
    main()
