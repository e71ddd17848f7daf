"""What the static exit of all-MiniLM-L6-v2 keeps: general, and fitted to the corpus searched.

The general table is fitted to train splits of STS-Benchmark, CLINC150 and BANKING77, docstrings and
SciFact's training claims (and --texts-file, one text a line), the fitted ones further to sentences
of the corpus that is searched. Reported: STS-Benchmark's test split, both sides static, Spearman;
SciFact's dev claims and Cranfield's queries, the query side static and the documents whole,
nDCG@10 over documents cut at --length tokens. SciFact's corpus is the abstracts that a claim cites
and --documents others. Nothing that is reported chooses anything.

With --quick, few texts, pairs and documents.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bench import report
from bench.minilm import minilm, reduced
from models.elasticize.sparse_rows import Floats
from models.elasticize.static_table import Bags, Fitted, fit, put
from models.families.exits import Exits
from models.train import texts
from models.train.texts import Retrieval, ScoredPair
from search.offline.corpus import sentences
from search.offline.static_check import Embedder, share_kept
from search.offline.static_exit import static_rows, token_vectors, with_static
from search.quality.embeddings import RankingQuality, SimilarityQuality
from server.settings import data_folder


class Searched:
    """A collection with its documents and queries as the whole model embeds them."""

    def __init__(self, data: Retrieval, embedder: Embedder, whole: Any) -> None:
        self.data = data
        self.quality = RankingQuality(data, "ndcg@10")
        self.documents = embedder.vectors(embedder.batches(data.documents), whole)
        self.whole = self.each(embedder.vectors(embedder.batches(data.queries), whole))

    def each(self, queries: Floats) -> Any:
        """Return the score of each query, by its vectors."""
        return self.quality.each(queries.astype(np.float64), self.documents.astype(np.float64))

    def told(self, queries: Floats) -> str:
        """Return the score and the part that is kept of the whole's, with its standard error."""
        found = self.each(queries)
        kept, error = share_kept(found, self.whole)
        return f"{found.mean():.4f} ({100 * kept:.1f} ± {100 * error:.1f} %)"


def main() -> None:
    """Fit, measure, print and write."""
    options = report.parser(__doc__)
    options.add_argument("--texts", type=int, default=50_000, help="general ones")
    options.add_argument("--sentences", type=int, default=15_000, help="of each corpus")
    options.add_argument("--documents", type=int, default=1000, help="that no claim cites")
    options.add_argument("--length", type=int, default=96, help="tokens at which texts are cut")
    options.add_argument("--texts-file", type=Path, help="more general texts, one a line")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.texts, chosen.sentences, chosen.documents, chosen.length = 500, 150, 20, 32
    model, root = minilm(chosen.length), data_folder()
    embedder, whole = Embedder(model), model.space.largest
    pairs = texts.stsb(root, "test")[: 100 if chosen.quick else None]
    searched = {
        name: Searched(data, embedder, whole)
        for name, data in collections(root, chosen.documents, 25 if chosen.quick else None).items()
    }
    held_out = {texts.normal(text) for pair in pairs for text in pair[:2]}
    held_out |= {texts.normal(q) for one in searched.values() for q in one.data.queries}
    plain = [text for part in texts.free_texts(root).values() for text in part]
    if chosen.texts_file is not None:
        plain += chosen.texts_file.read_text(encoding="utf-8").splitlines()
    corpora = {name: sentences_of(one.data.documents) for name, one in searched.items()}
    rows: list[dict[str, Any]] = []
    general, took = fitted(model, some(plain, held_out, chosen.texts), None)
    rows.append(row("general", model, general, took, pairs, searched))
    for name, own in corpora.items():
        part = some(own, held_out, chosen.sentences)
        for start, prior in (("general, then", general), ("only", None)):
            found, took = fitted(model, part, prior)
            rows.append(row(f"{start} {name}", model, found, took, pairs, searched))
    best = SimilarityQuality(pairs)
    vectors = embedder.vectors(embedder.batches(best.texts), whole).astype(np.float64)
    rows.append(
        {"table": "whole model", "STS-B test": f"{best.score(vectors).value:.4f}"}
        | {name: f"{one.whole.mean():.4f}" for name, one in searched.items()}
    )
    columns = ["table", "STS-B test", *searched, "texts", "seconds"]
    sizes = {"STS-B pairs": len(pairs)} | {n: len(s.data.queries) for n, s in searched.items()}
    report.show(
        f"Static exit; n: {sizes}", columns, [[str(r.get(c, "")) for c in columns] for r in rows]
    )
    report.finish({"rows": rows, "n": sizes}, chosen.json)


def collections(root: Path, documents: int, most: int | None) -> Mapping[str, Retrieval]:
    """Return what is searched."""
    dev, cranfield = texts.scifact(root, "dev"), texts.cranfield(root)
    cited = {i for own in dev.relevant for i in own}
    others = [i for i in range(len(dev.documents)) if i not in cited]
    Random(0).shuffle(others)
    found = {"SciFact": reduced(dev, others[:documents], most or len(dev.queries))}
    rest = [] if most else range(len(cranfield.documents))
    known = {i for own in cranfield.relevant[: most or None] for i in own}
    found["Cranfield"] = reduced(cranfield, [i for i in rest if i not in known], most or 10**6)
    return found


def sentences_of(documents: Iterable[str]) -> list[str]:
    """Return the sentences of all documents, each once."""
    return list(dict.fromkeys(one for document in documents for one in sentences(document)))


def some(found: Sequence[str], held_out: set[str], most: int) -> list[str]:
    """Return some texts in a random order, none of them reported on."""
    order = [one for one in dict.fromkeys(found) if one and texts.normal(one) not in held_out]
    Random(0).shuffle(order)
    return order[:most]


def fitted(model: Exits, plain: Sequence[str], prior: Fitted | None) -> tuple[Fitted, list[float]]:
    """Return a table, the number of texts it was fitted to and the seconds that took."""
    started = time.monotonic()
    embedder = Embedder(model)
    batches = embedder.batches(plain)
    vectors = embedder.vectors(batches, model.space.largest)
    bags = Bags(batches.token_ids, model.config.encoder.vocab_size)
    found = fit(bags, vectors, token_vectors(model), prior)
    return found, [len(plain), round(time.monotonic() - started, 1)]


def row(
    name: str,
    model: Exits,
    found: Fitted,
    took: Sequence[float],
    pairs: Sequence[ScoredPair],
    searched: Mapping[str, Searched],
) -> dict[str, Any]:
    """Score a table by the plans that the server runs."""
    made = with_static(model)
    put(found, made.static)
    embedder, static = Embedder(made), static_rows(made)[-1]

    def vectors(of: Sequence[str]) -> Floats:
        return embedder.vectors(embedder.batches(of), static)

    quality = SimilarityQuality(pairs)
    score = quality.score(vectors(quality.texts).astype(np.float64))
    said = {one: own.told(vectors(own.data.queries)) for one, own in searched.items()}
    line = {"table": name, "STS-B test": f"{score.value:.4f} ± {score.stderr:.4f}", **said}
    print(line, file=sys.stderr, flush=True)
    return {**line, "texts": took[0], "seconds": took[1]}


if __name__ == "__main__":
    main()
