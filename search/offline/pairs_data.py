"""What `rheostat train pairs` learns from: queries with right documents, and how wrong ones come.

Wrong documents are those that the encoder, before any training, finds nearest. Of collections that
judge their own candidates they are the candidates judged wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch

from models.inputs.text import TextInput
from models.train import texts
from models.train.pairs import RankedTexts
from models.train.texts import Retrieval
from search.quality.cells import FloatArray

LICENCES = (
    "train splits of SciFact, claims CC BY 4.0, abstracts ODC-BY 1.0; TREC QA, research use; "
    "STS-Benchmark, CC BY-SA 4.0; docstrings and functions of BSD-licensed Python packages"
)
_ALIKE = 4.0  # of 5: pairs of STS-Benchmark rated so or more belong together
_NEAREST = 30  # wrong documents that are kept of a query
_CODES = 1000
_OTHERS = 1000  # abstracts that no claim of the train split cites


@dataclass(frozen=True)
class Lesson:
    """A collection to learn from.

    Attributes:
        name: Of the data set.
        data: Queries, documents and judgements.
        share: Of the training steps.
    """

    name: str
    data: Retrieval
    share: float


def lessons(root: Path, seed: int) -> list[Lesson]:
    """Read the train splits, without texts of the splits that measure and report.

    Args:
        root: Folder of the data sets.
        seed: Of what is drawn of large ones.

    Raises:
        FileNotFoundError: If a data set is not there.
    """
    rng = Random(seed)
    known = {
        texts.normal(text)
        for split in ("dev", "test")
        for one in (texts.trecqa(root, split),)
        for text in one.queries
    }
    known |= {texts.normal(text) for text in texts.scifact(root, "dev").queries}
    known |= {texts.normal(t) for s in ("dev", "test") for p in texts.stsb(root, s) for t in p[:2]}
    alike = [(p.first, p.second) for p in texts.stsb(root, "train") if p.score >= _ALIKE]
    codes = texts.pydoc_code(root, "train")
    rng.shuffle(codes)
    found = [
        Lesson("scifact", _fewer(texts.scifact(root, "train"), _OTHERS, rng), 0.45),
        Lesson("trecqa", texts.trecqa(root, "train"), 0.3),
        Lesson("stsb", texts.as_collection(alike), 0.15),
        Lesson("pydoc-code", texts.as_collection(codes[:_CODES]), 0.1),
    ]
    return [Lesson(one.name, _without(one.data, known), one.share) for one in found]


def words_of(some: Iterable[Lesson]) -> list[str]:
    """Return all texts of collections, each once."""
    return list(dict.fromkeys(t for one in some for t in (*one.data.queries, *one.data.documents)))


def ranked(
    data: Retrieval,
    queries: FloatArray,
    documents: FloatArray,
    query: TextInput,
    document: TextInput,
) -> RankedTexts:
    """Return a collection as what a recipe reads.

    Args:
        data: The collection.
        queries: Unit vectors of its queries, shape [queries, dim].
        documents: Of its documents.
        query: Makes tokens of queries.
        document: Likewise of documents.
    """
    return RankedTexts(
        [query.encode(text, truncate="right") for text in data.queries],
        [document.encode(text, truncate="right") for text in data.documents],
        [sorted(own) for own in data.relevant],
        [_nearest(data, i, documents @ vector) for i, vector in enumerate(queries)],
        torch.from_numpy(queries).float(),
        torch.from_numpy(documents).float(),
    )


def _nearest(data: Retrieval, query: int, cosines: FloatArray) -> list[int]:
    own = None if data.candidates is None else np.array(data.candidates[query])
    order = np.argsort(-cosines) if own is None else own[np.argsort(-cosines[own])]
    wrong = (int(i) for i in order if int(i) not in data.relevant[query])
    return [i for i, _ in zip(wrong, range(_NEAREST), strict=False)]


def _fewer(data: Retrieval, others: int, rng: Random) -> Retrieval:
    """Return a collection of the documents that its queries cite, and some others."""
    cited = sorted({i for own in data.relevant for i in own})
    rest = [i for i in range(len(data.documents)) if i not in set(cited)]
    kept = [*cited, *rng.sample(rest, min(others, len(rest)))]
    place = {old: new for new, old in enumerate(kept)}
    return Retrieval(
        data.queries,
        tuple(data.documents[i] for i in kept),
        tuple(frozenset(place[i] for i in own) for own in data.relevant),
    )


def _without(data: Retrieval, known: set[str]) -> Retrieval:
    """Leave out the queries that are known, by letters and digits."""
    kept: Sequence[int] = [i for i, q in enumerate(data.queries) if texts.normal(q) not in known]
    return Retrieval(
        tuple(data.queries[i] for i in kept),
        data.documents,
        tuple(data.relevant[i] for i in kept),
        data.candidates and tuple(data.candidates[i] for i in kept),
    )
