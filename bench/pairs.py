"""What a model of pairs is worth as a second stage: every way and exit beside cosines, by MACs.

Reported: TREC QA's test split, each question with its own answers, MAP and MRR; and SciFact's dev
claims, nDCG@10, with the --candidates abstracts that all-MiniLM-L6-v2 finds nearest. Controls rank
the same candidates by cosine: all-MiniLM-L6-v2 and the shipped minilm-2d, whole. Differences from
minilm-2d are paired, by query. MACs are of one pair, alone, and with what depends on the document
alone already there. Nothing that is reported trained or chose anything.

With --quick, a model without training, 12 questions, and 6 claims among the abstracts they cite and
30 others.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import report
from bench.minilm import minilm, minilm_folder, reduced
from models import checkpoint
from models.backends.torch import TorchBackend
from models.core import Plan
from models.families.pairs import SCORE, Pairs
from models.inputs import Item
from models.inputs.text import text_input
from models.run.jobs import Done, Job
from models.space import Subnet
from models.train import texts
from models.train.texts import Retrieval
from search.offline.pairs_training import untrained
from search.quality.embeddings import mean_of
from search.quality.pair_ranking import PairRankingQuality, reranking
from search.quality.whole_agreement import whole_answers
from server.settings import data_folder

Floats = NDArray[np.float64]

_MAX_TOKENS = 6000  # of a batch
_COUNTED = 200  # pairs whose MACs are counted
_CONTROL = "minilm-2d"


class Set(NamedTuple):
    """Queries with their candidates, how they are judged, and each pair's cosine by MiniLM."""

    name: str
    data: Retrieval
    metrics: Sequence[str]
    first_stage: Floats


def main() -> None:
    """Score, print and write."""
    options = report.parser(__doc__)
    options.add_argument("model", nargs="?", type=Path, metavar="DIR", help="of the family pairs")
    options.add_argument("--claims", type=int, default=300)
    options.add_argument("--candidates", type=int, default=100)
    options.add_argument("--bfloat16", action="store_true", help="products in bfloat16")
    options.add_argument("--vectors", type=Path, metavar="FILE", help="keeps the first stage's")
    chosen = options.parse_args()
    root = data_folder()
    try:
        sets = [_questions(root, chosen.quick), _claims(root, chosen)]
    except (ValueError, FileNotFoundError) as error:
        print(f"this benchmark needs the text data sets: {error}", file=sys.stderr)
        sys.exit(2)
    model = _model(chosen.model)
    precision = torch.autocast("cpu", torch.bfloat16) if chosen.bfloat16 else nullcontext()
    figures: dict[str, object] = {"precision": "bfloat16" if chosen.bfloat16 else "float32"}
    with precision:
        for one in sets:
            figures[one.name] = _table(one, model)
    report.finish(figures, chosen.json)


def _model(folder: Path | None) -> Pairs:
    if folder is None:
        with TemporaryDirectory() as scratch:
            return untrained(minilm_folder(), "untrained", Path(scratch))[0]
    model: Pairs = checkpoint.load(folder).model
    return model


def _questions(root: Path, is_quick: bool) -> Set:
    data = texts.trecqa(root, "test")
    data = _first(data, 12 if is_quick else len(data.queries))
    pairs = PairRankingQuality(data, "map").texts
    return Set("TREC QA test", data, ("map", "mrr@10"), _cosines(minilm(256), pairs))


def _claims(root: Path, chosen: Any) -> Set:
    data = texts.scifact(root, "dev")
    if chosen.quick:
        cited = {i for own in data.relevant for i in own}
        others = [i for i in range(len(data.documents)) if i not in cited]
        data = reduced(data, others[:30], 6)
    queries, documents = _first_stage(data, chosen.vectors)
    found = reranking(data, (queries, documents), min(chosen.candidates, len(data.documents)))
    found = _first(found, chosen.claims)
    assert found.candidates is not None
    of_pairs = zip(queries, found.candidates, strict=False)
    cosines = np.concatenate([documents[list(own)] @ query for query, own in of_pairs])
    return Set("SciFact dev", found, ("ndcg@10",), cosines)


def _first_stage(data: Retrieval, kept: Path | None) -> tuple[Floats, Floats]:
    """Return the unit vectors of the queries and documents by all-MiniLM-L6-v2."""
    if kept is not None and kept.is_file():
        found = np.load(kept)
        return found["queries"], found["documents"]
    every = _vectors(minilm(256), [*data.queries, *data.documents])
    queries, documents = every[: len(data.queries)], every[len(data.queries) :]
    if kept is not None:
        np.savez(kept, queries=queries, documents=documents)
    return queries, documents


def _vectors(model: Any, some: Sequence[str]) -> Floats:
    backend = TorchBackend()
    backend.prepare(model)
    return whole_answers(model, backend, some)


def _first(data: Retrieval, count: int) -> Retrieval:
    assert data.candidates is not None
    return Retrieval(
        data.queries[:count], data.documents, data.relevant[:count], data.candidates[:count]
    )


def _table(one: Set, model: Pairs) -> list[dict[str, Any]]:
    """Print every scorer's figures on a set; return them."""
    judges = [PairRankingQuality(one.data, metric) for metric in one.metrics]
    pairs = judges[0].texts
    scorers: dict[str, Floats] = {
        "all-MiniLM-L6-v2": one.first_stage,
        _CONTROL: _cosines(checkpoint.load(report.ZOO_TEXT).model, pairs),
    }
    found, macs = scores_of(model, pairs)
    scorers |= found
    rows, records = [], []
    each = {name: [judge.each(scores) for judge in judges] for name, scores in scorers.items()}
    for name, own in each.items():
        apart = mean_of(own[0] - each[_CONTROL][0])
        alone, kept = macs.get(name, (None, None))
        measured = [mean_of(values) for values in own]
        records.append(
            {
                "scorer": name,
                "macs": alone,
                "macs_document_kept": kept,
                **{m: v._asdict() for m, v in zip(one.metrics, measured, strict=True)},
                f"over {_CONTROL}": apart._asdict(),
            }
        )
        rows.append(
            [
                name,
                *("" if count is None else f"{count / 1e6:.0f}" for count in (alone, kept)),
                *(f"{m.value:.4f} ± {m.stderr:.4f}" for m in measured),
                f"{apart.value:+.4f} ± {apart.stderr:.4f}",
            ]
        )
    columns = ["scorer", "MMACs", "kept", *one.metrics, f"over {_CONTROL}"]
    title = f"{one.name}, {len(one.data.queries)} queries, {len(pairs)} pairs"
    report.show(title, columns, rows)
    return records


def _cosines(model: Any, pairs: Sequence[tuple[str, str]]) -> Floats:
    every = list(dict.fromkeys(text for pair in pairs for text in pair))
    place = {text: i for i, text in enumerate(every)}
    vectors = _vectors(model, every)
    first, second = (vectors[[place[pair[side]] for pair in pairs]] for side in (0, 1))
    cosines: Floats = (first * second).sum(axis=1)
    return cosines


def scores_of(
    model: Pairs, pairs: Sequence[tuple[str, str]]
) -> tuple[dict[str, Floats], Mapping[str, tuple[int, int]]]:
    """Return the scores of all pairs by every way and exit, and the MACs of a pair.

    Pairs of one document are neighbours in a batch, which computes what they share once.

    Args:
        model: With its tokenizer.
        pairs: Queries with documents.

    Returns:
        Scores by name, and by name the mean MACs of a pair: alone, and with the document's known.
    """
    backend = TorchBackend()
    backend.prepare(model)
    texts_by = dict(zip(model.inputs, zip(*pairs, strict=True), strict=True))
    ids = {
        name: {text: _encoded(model, name, text) for text in dict.fromkeys(own)}
        for name, own in texts_by.items()
    }
    items = [
        model.inputs.item({name: ids[name][own[i]] for name, own in texts_by.items()})
        for i in range(len(pairs))
    ]
    order = sorted(range(len(items)), key=lambda i: (items[i]["document"].size, pairs[i][1]))
    subnets = {
        f"{s['interaction']}, exit {s['depth']}": s
        for s in model.space
        if s["heads"] == s["ffn"] == 1 and s.get("bits", 32) == 32
    }
    shapes = model.inputs.plan_shapes()
    plan = Plan(
        {name: model.plan(s, shapes, [SCORE]).answers[SCORE] for name, s in subnets.items()}
    )
    found = {name: np.zeros(len(items)) for name in subnets}
    for part in _batches(order, items):
        jobs = [Job(plan, items[i]) for i in part]
        for answered in backend.execute(jobs, model.inputs.collate):
            for j, done in answered:
                if not isinstance(done, Done):
                    raise done
                for name, value in done.outputs.items():
                    found[name][part[j]] = float(value)
    some = items[:: max(1, len(items) // _COUNTED)]
    return found, {name: _macs(model, s, some) for name, s in subnets.items()}


def _encoded(model: Pairs, name: str, text: str) -> Tensor:
    return text_input(model.inputs, name).encode(text, truncate="right")


def _batches(order: Sequence[int], items: Sequence[Item]) -> list[list[int]]:
    found: list[list[int]] = [[]]
    tokens = 0
    for i in order:
        own = sum(one.size for one in items[i].values())
        if tokens + own > _MAX_TOKENS and found[-1]:
            found.append([])
            tokens = 0
        found[-1].append(i)
        tokens += own
    return found


def _macs(model: Pairs, subnet: Subnet, items: Sequence[Item]) -> tuple[int, int]:
    alone = kept = 0
    for item in items:
        for step in model.plan(subnet, model.inputs.shapes(item), [SCORE]):
            alone += step.cost.macs
            kept += 0 if step.inputs == ("document",) else step.cost.macs
    return alone // len(items), kept // len(items)


if __name__ == "__main__":
    main()
