"""What a run of `rheostat elasticize` has measured, kept so that a later run goes on from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.elasticize.ranking import Ranking
from models.families.pruned import LayerForm
from models.files import reading
from search.offline.cuts import Forms
from search.offline.errors import RecordError

TRIALS = "trials.jsonl"


@dataclass
class Rankings:
    """Which ranking was the best, and the agreement that each led to."""

    winner: Ranking | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


class Record:
    """Measured cuts, by their forms: a file of lines of JSON, or nothing but memory."""

    def __init__(self, path: Path | None = None, about: Mapping[str, Any] | None = None) -> None:
        """Read what is there, or start.

        Args:
            path: Of the file; None to keep nothing on disk.
            about: What a run must have in common with the earlier one.

        Raises:
            RecordError: If the file is damaged, or of a run about something else.
        """
        self._path = path
        self.rankings = Rankings()
        self._scores: dict[tuple[float, Forms], float] = {}
        if path is None:
            return
        if path.exists():
            self._read(path, dict(about or {}))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write({"about": dict(about or {})})

    def add_rankings(self, winner: Ranking, scores: Mapping[str, float]) -> None:
        """Keep what rankings led to."""
        self.rankings = Rankings(winner, dict(scores))
        self._write({"winner": winner, "scores": dict(scores)})

    def knows(self, forms: Forms, keep: float | None = None) -> bool:
        """Return whether a cut was measured for a budget; None: for any."""
        return any(forms == own for k, own in self._scores if keep in (None, k))

    def of(self, keep: float) -> list[Forms]:
        """Return the cuts measured for a budget."""
        return [forms for k, forms in self._scores if k == keep]

    def score(self, forms: Forms) -> float:
        """Return the score of a cut that was measured; KeyError for another."""
        for (_, own), score in self._scores.items():
            if own == forms:
                return score
        raise KeyError(forms)

    def measured(self, forms: Forms, measure: Callable[[], float], keep: float) -> float:
        """Return a cut's score, measured now unless it was before."""
        if self.knows(forms):
            score = self._scores[keep, forms] = self.score(forms)
            return score
        score = self._scores[keep, forms] = measure()
        self._write({"keep": keep, "forms": [asdict(form) for form in forms], "score": score})
        return score

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _read(self, path: Path, about: dict[str, Any]) -> None:
        with reading(path, RecordError):
            text = path.read_text(encoding="utf-8")
            lines = text.splitlines()
            if not text.endswith("\n"):  # a crash in the middle of a line
                lines = lines[:-1]
                path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            try:
                first, *others = [json.loads(line) for line in lines]
                if first["about"] != json.loads(json.dumps(about)):
                    raise RecordError(f"{path} is of another run: {first['about']}, not {about}")
                for line in others:
                    if "winner" in line:
                        self.rankings = Rankings(line["winner"], line["scores"])
                    else:
                        forms = tuple(LayerForm(**form) for form in line["forms"])
                        self._scores[line["keep"], forms] = float(line["score"])
            except (KeyError, TypeError, json.JSONDecodeError):
                raise RecordError(f"{path} is damaged; remove it to start afresh") from None
