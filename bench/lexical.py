"""What the query's words bring to a ranking beside a model's score (`lexical_weight`).

Lists are the first documents by BM25 over a whole collection, or a data set's own candidates, on
test sets that chose nothing: the weight 0.5 is from SciFact's train claims. Of each list the words
alone, the model's cosines alone and both by weights are scored, with the static exit and with the
whole model, as `/v1/rerank` scores them. nDCG@10; what no candidate answers counts as 0 for all.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import report
from bench.bm25 import Bm25
from models import checkpoint
from models.train import texts
from models.train.texts import Retrieval
from search.lexical import lexical_scores
from search.offline.static_check import Embedder
from search.quality.table import FloatArray
from server.settings import data_folder

_CANDIDATES = 100
_QUICK = 12  # queries with 15 candidates each
_PLACES = 10
_WEIGHTS = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Lists:
    """A test set as lists to put in order.

    Attributes:
        name: Of the set.
        data: Queries and documents.
        candidates: Of each query, document numbers.
    """

    name: str
    data: Retrieval
    candidates: Sequence[Sequence[int]]

    def ndcg(self, query: int, order: Sequence[int]) -> float:
        """Return nDCG@10 of an order of a query's candidates."""
        right, own = self.data.relevant[query], self.candidates[query]
        discounts = 1 / np.log2(np.arange(2, _PLACES + 2))
        found = [d for i, d in zip(order, discounts, strict=False) if own[i] in right]
        return float(sum(found) / discounts[: len(right)].sum())


def main() -> None:
    """Rank, print and write."""
    options = report.parser(__doc__)
    default = report.ZOO_TEXT.parent / "minilm-elastic"
    options.add_argument("--model", type=Path, default=default, metavar="DIR")
    chosen = options.parse_args()
    model = checkpoint.load(chosen.model).model
    whole = model.space.largest
    as_large = {axis.name: whole[axis.name] for axis in model.space.axes if axis.kind == "output"}
    ways = {"whole": whole, "least": model.space.smallest | as_large | {"bits": whole["bits"]}}
    rows: list[list[Any]] = []
    figures = []
    for one in _sets(chosen.quick):
        found = scored(one, model, ways)
        for name, values in found.items():
            mean, stderr = _mean(values)
            base = found[name.partition(" +")[0]]
            gain, gain_stderr = _mean(values - base)
            rows.append([one.name, name, mean, stderr, gain, gain_stderr, len(values)])
            figures.append(dict(zip(_KEYS, rows[-1], strict=True)))
    columns = ["set", "ranked by", "nDCG@10", "±", "over the model alone", "± ", "n"]
    report.show(f"{chosen.model.name}: words beside a model's score", columns, rows)
    report.finish({"lexical": figures}, chosen.json)


_KEYS = ("set", "by", "ndcg", "stderr", "gain", "gain_stderr", "n")


def scored(lists: Lists, model: Any, ways: dict[str, Any]) -> dict[str, FloatArray]:
    """Return nDCG@10 of each query by each way to rank."""
    used = sorted({i for own in lists.candidates for i in own})
    position = {document: at for at, document in enumerate(used)}
    places = [[position[i] for i in own] for own in lists.candidates]
    embedder = Embedder(model)
    queries = embedder.batches(lists.data.queries)
    documents = embedder.batches([lists.data.documents[i] for i in used])
    text = model.inputs[model.inputs.name_for("text")].type
    read = [text.encode(one, truncate="right").numpy() for one in lists.data.queries]
    of_documents = [text.encode(lists.data.documents[i], truncate="right").numpy() for i in used]
    words = [_words(query, of_documents, own) for query, own in zip(read, places, strict=True)]
    found = {"words": _each(lists, words)}
    for name, subnet in ways.items():
        of_queries = embedder.vectors(queries, subnet)
        vectors = embedder.vectors(documents, subnet)
        cosines = [vectors[own] @ of_queries[q] for q, own in enumerate(places)]
        for weight in _WEIGHTS:
            both = [own + weight * own.std() * one for own, one in zip(cosines, words, strict=True)]
            found[f"{name} + {weight:g} words" if weight else name] = _each(lists, both)
    return found


def _words(
    query: NDArray[np.int64], documents: Sequence[NDArray[np.int64]], own: Sequence[int]
) -> FloatArray:
    return lexical_scores(query, [documents[i] for i in own])


def _each(lists: Lists, scores: Sequence[FloatArray]) -> FloatArray:
    return np.array(
        [
            lists.ndcg(query, np.argsort(-own, kind="stable").tolist())
            for query, own in enumerate(scores)
        ]
    )


def _mean(values: FloatArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _sets(is_quick: bool) -> list[Lists]:
    """Return the test sets; end with code 2 without the data."""
    try:
        root = data_folder()
        sets = {
            "SciFact": texts.scifact(root, "dev"),
            "Cranfield": texts.cranfield(root),
            "TREC QA": texts.trecqa(root, "test"),
            "pydoc-code": texts.as_collection(texts.pydoc_code(root, "test")),
        }
    except (ValueError, FileNotFoundError) as error:
        print(f"this benchmark needs the text sets: {error}", file=sys.stderr)
        sys.exit(2)
    return [_lists(name, data, is_quick) for name, data in sets.items()]


def _lists(name: str, data: Retrieval, is_quick: bool) -> Lists:
    count = len(data.queries)
    some = Random(0).sample(range(count), _QUICK) if is_quick else range(count)
    if data.candidates is not None:
        found = [list(data.candidates[i]) for i in some]
    else:
        ranker = Bm25(data.documents)
        most = 15 if is_quick else _CANDIDATES
        found = [ranker.first(data.queries[i], most) for i in some]
    few = Retrieval(
        tuple(data.queries[i] for i in some),
        data.documents,
        tuple(data.relevant[i] for i in some),
    )
    return Lists(name, few, found)


if __name__ == "__main__":
    main()
