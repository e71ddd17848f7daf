"""What the query's words bring to a ranking beside a model's score (`lexical_weight`).

Lists are the first documents by BM25 over a whole collection, or a data set's own candidates, on
test sets that chose nothing: the weight 0.5 is from SciFact's train claims. Of each list the words
alone, the model's cosines alone and both by weights are scored, with the static exit and with the
whole model, as `/v1/rerank` scores them. nDCG@10; what no candidate answers counts as 0 for all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import report
from bench.bm25 import Bm25
from bench.rankers import CANDIDATES, Lists, ndcg
from models import checkpoint
from models.train import texts
from models.train.texts import Retrieval
from search.lexical import lexical_scores
from search.offline.static_check import Embedder
from search.quality.embeddings import mean_of
from search.quality.table import FloatArray
from server.settings import data_folder

_QUICK = 12  # queries with 15 candidates each
_WEIGHTS = (0.0, 0.25, 0.5, 1.0)


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
    for which, lists in _sets(chosen.quick).items():
        found = scored(lists, model, ways)
        for name, values in found.items():
            own, gain = mean_of(values), mean_of(values - found[name.partition(" +")[0]])
            told = own.value, own.stderr, gain.value, gain.stderr, own.n
            rows.append([which, name, *told])
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
            ndcg([own[i] for i in np.argsort(-one, kind="stable")], right)
            for own, right, one in zip(lists.candidates, lists.data.relevant, scores, strict=True)
        ]
    )


def _sets(is_quick: bool) -> dict[str, Lists]:
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
    return {name: _lists(data, is_quick) for name, data in sets.items()}


def _lists(data: Retrieval, is_quick: bool) -> Lists:
    count = len(data.queries)
    some = Random(0).sample(range(count), _QUICK) if is_quick else range(count)
    if data.candidates is not None:
        found = [list(data.candidates[i]) for i in some]
    else:
        ranker = Bm25(data.documents)
        most = 15 if is_quick else CANDIDATES
        found = [ranker.first(data.queries[i], most) for i in some]
    few = Retrieval(
        tuple(data.queries[i] for i in some),
        data.documents,
        tuple(data.relevant[i] for i in some),
    )
    return Lists(few, found)


if __name__ == "__main__":
    main()
