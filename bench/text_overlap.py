"""Which training texts stand in a split that chooses or reports something, whole or in part."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from models.train import texts

_SHINGLE = 8  # words
_PART = 0.5  # of a held-out sentence's shingles, from which a text is left out
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")


class Overlap:
    """Held-out sentences by their normal forms and by their runs of 8 words."""

    def __init__(self, held_out: Iterable[str]) -> None:
        """Read the held-out texts; each counts whole and by its sentences."""
        self._whole: set[str] = set()
        self._sizes: list[int] = []
        self._of: defaultdict[int, list[int]] = defaultdict(list)
        for text in held_out:
            for part in dict.fromkeys((text, *_SENTENCE.split(text))):
                key = texts.normal(part)
                if key and key not in self._whole:
                    self._whole.add(key)
                    self._add(key)

    def _add(self, key: str) -> None:
        found = set(_shingles(key))
        if found:
            for shingle in found:
                self._of[shingle].append(len(self._sizes))
            self._sizes.append(len(found))

    def of(self, key: str) -> Literal["equal", "shingles"] | None:
        """Return how a text, given by its normal form, stands in what is held out; None if not."""
        if key in self._whole:
            return "equal"
        shared = Counter(n for shingle in set(_shingles(key)) for n in self._of.get(shingle, ()))
        if any(count >= _PART * self._sizes[n] for n, count in shared.items()):
            return "shingles"
        return None


def _shingles(key: str) -> Iterator[int]:
    words = key.split()
    for first in range(len(words) - _SHINGLE + 1):
        yield hash(" ".join(words[first : first + _SHINGLE]))


def held_out(root: Path) -> Iterator[str]:
    """Yield the texts of all splits in the data folder that choose or report something."""
    for split in ("dev", "test"):
        yield from (text for pair in texts.stsb(root, split) for text in pair[:2])
        yield from (text for pair in texts.pydoc_code(root, split) for text in pair)
        yield from _of(texts.trecqa(root, split))
        yield from _of(texts.cosqa(root, split))
    pairs = [pair for split in ("train", "trial") for pair in texts.sick(root, split)]
    pairs += [pair for split in ("train", "val", "test") for pair in texts.mrpc(root, split)]
    yield from (text for pair in pairs for text in pair[:2])
    rated = {text for pair in texts.stsb(root, "train") for text in pair[:2]}
    yield from (text for pair in texts.sts_years(root, rated) for text in pair[:2])
    for split in ("train", "dev"):
        yield from _of(texts.scifact(root, split))
    yield from _of(texts.cranfield(root))
    for name, split in _INTENTS:
        yield from (text for text, _ in texts.intents(root, name, split))


_INTENTS = (
    ("banking77", "train"),
    ("banking77", "test"),
    ("clinc150", "val"),
    ("clinc150", "test"),
)


def _of(data: texts.Retrieval) -> Iterator[str]:
    yield from data.queries
    yield from data.documents
