"""What `rheostat convert` does: a public text encoder in, a checkpoint that can be served out."""

from __future__ import annotations

import csv
from math import isfinite
from pathlib import Path
from typing import Unpack

from tqdm import tqdm

from models import checkpoint, formats
from models.backends.torch import TorchBackend
from models.files import reading
from models.formats import Choices
from models.train.texts import ScoredPair
from search.quality.embeddings import SimilarityQuality, scores, table_of
from search.quality.table import TABLE

COLUMNS = ("sentence1", "sentence2", "score")


class PairsError(ValueError):
    """A file does not hold rated pairs. The message names it."""


def convert(
    source: Path, out: Path, name: str, rated: list[ScoredPair], **choices: Unpack[Choices]
) -> None:
    """Read a public folder, measure every subnet on rated pairs and write a checkpoint.

    Args:
        source: A sentence-transformers or Hugging Face folder.
        out: Folder of the checkpoint; made if needed.
        name: What clients will ask for.
        rated: Held-out pairs that the table is measured on.
        choices: What subnets there shall be, see `models.formats.Choices`.

    Raises:
        FormatError: If the folder cannot be read exactly.
        ValueError: If the choices do not fit the model.
    """
    formats.write(formats.read(source, name, **choices), out)
    stored = checkpoint.load(out).model
    backend = TorchBackend()
    backend.prepare(stored)
    subnets = list(stored.space)
    similarity = SimilarityQuality(rated)
    with tqdm(desc="table", unit="batch") as progress:
        found = scores(stored, backend, similarity, subnets, progress.update)
    table = table_of(stored, subnets, dict.fromkeys(stored.tasks, found))
    table.save(out / TABLE, stored.space)
    checkpoint.cover(out, TABLE)


def read_pairs(path: Path) -> list[ScoredPair]:
    """Read rated pairs: tab-separated text with a header line, no quoting.

    Raises:
        ValueError: Naming the file, and the column or line at fault.
    """
    with reading(path, PairsError):
        return _read_pairs(path)


def _read_pairs(path: Path) -> list[ScoredPair]:
    pairs = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if missing := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
            raise PairsError(f"{path} has no column {missing[0]!r}; needed: {', '.join(COLUMNS)}")
        for row in reader:
            try:
                pair = ScoredPair(row["sentence1"], row["sentence2"], _score(row["score"]))
            except (TypeError, ValueError):
                raise PairsError(
                    f"{path}, line {reader.line_num}: score must be a number"
                ) from None
            if not (pair.first and pair.second):
                raise PairsError(f"{path}, line {reader.line_num}: a sentence is empty")
            pairs.append(pair)
    if len({pair.score for pair in pairs}) < 2 or len(pairs) < 4:
        raise PairsError(f"{path} must hold four pairs or more, of different scores")
    return pairs


def _score(text: str) -> float:
    score = float(text)
    if not isfinite(score):
        raise ValueError(f"{text} is no score")
    return score
