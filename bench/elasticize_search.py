"""What `rheostat elasticize` finds for all-MiniLM-L6-v2 in some seconds, kept and scored."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.minilm import Texts
from models import checkpoint
from models.backends.torch import TorchBackend
from models.elasticize.assembling import write
from models.families.exits import Exits
from models.inputs.text import TextInput
from models.space import Subnet
from search.offline.elasticizing import Run
from search.offline.material import Material
from search.offline.options import RunOptions
from search.offline.record import Record
from search.offline.whole import answers_of
from search.quality.agreement import AgreementQuality
from search.quality.embeddings import Evaluation, Measured, scores
from search.quality.items import Item
from search.quality.table import FloatArray

_FOUND = "found.json"


class Mean:
    """The mean of the scores of several evaluations."""

    def __init__(self, parts: Sequence[Evaluation]) -> None:
        self.texts: list[Item] = [text for part in parts for text in part.texts]
        self._parts = parts

    def score(self, vectors: FloatArray) -> Measured:
        """Score each part by its own rows."""
        found, start = [], 0
        for part in self._parts:
            found.append(part.score(vectors[start : start + len(part.texts)]))
            start += len(part.texts)
        n = len(found)
        error = sum(one.stderr**2 for one in found) ** 0.5 / n
        return Measured(sum(one.value for one in found) / n, sum(one.n for one in found), error)


def agreement_of(model: Exits, read: Texts) -> Mean:
    """Return the agreement with the whole model, each kind of text among its own."""
    return Mean([AgreementQuality(own, answers_of(model, own)) for own in read.choose.values()])


def search(model: Exits, read: Texts, options: RunOptions, out: Path) -> None:
    """Run a search and keep the model that it finds, with how it was found."""
    choose = agreement_of(model, read)
    material = Material(read.fit, choose, choose, "similarity", "agreement", {})
    started = time.monotonic()
    result = Run(
        model,
        "exits",
        material,
        options,
        Record(),
        time.monotonic,
        lambda what: print(f"{time.monotonic() - started:6.1f} s {what}", file=sys.stderr),
    ).run()
    took = time.monotonic() - started
    write(result.model, out)
    about = {
        "ranking": result.ranking,
        "rankings": result.rankings,
        "seconds": round(took, 1),
        "threads": torch.get_num_threads(),
        "trials": {str(keep): count for keep, count in result.trials.items()},
        "fitted_on": result.fitted_on,
        "parts": {part: round(s, 1) for part, s in result.seconds.items()},
    }
    (out / _FOUND).write_text(json.dumps(about))


def is_found(out: Path) -> bool:
    """Return whether a search has ended there."""
    return (out / _FOUND).is_file()


def score(
    out: Path, read: Texts, whole: dict[str, float], shares: Sequence[float], seed: int, length: int
) -> list[dict[str, Any]]:
    """Return the shares of the whole model's scores that a found model keeps, as it is stored."""
    about = json.loads((out / _FOUND).read_text())
    model: Any = checkpoint.load(out).model
    text = model.base.config.text
    model.base.take(TextInput.load(replace(text, max_length=length), out), out)
    subnets = [Subnet(model.space.largest | {"keep": share}) for share in shares]
    backend = TorchBackend()
    backend.prepare(model)
    kept = {name: scores(model, backend, one, subnets) for name, one in read.reported.items()}
    found = []
    for i, share in enumerate(shares):
        row: dict[str, Any] = {"seed": seed, "ranking": about["ranking"], "repair": "search"}
        row |= {"share": share, **{name: own[i].value / whole[name] for name, own in kept.items()}}
        row |= {
            "layers": [(form.kind, form.groups, form.units) for form in model.config.cut(share)]
        }
        found.append(row | {key: about[key] for key in about if key != "ranking"})
        print(row, file=sys.stderr, flush=True)
    return found
