"""Who is compared, in which ways each is asked, and how Rheostat takes part."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peers.process import Launch
from models.checkpoint import CheckpointError, read_manifest
from server.catalog import CatalogError, find_checkpoints

SAME_WEIGHTS = "rheostat"  # the way that others are compared with
CONVERTED = "minilm"
# How the elastic model is asked: what follows its name, the budget, whether less is computed.
_REDUCED = "99 % score"
_KEPT = {"min_quality": 0.99}
_BUDGETS: tuple[tuple[str, dict[str, float], bool], ...] = (
    ("whole", {}, False),
    (_REDUCED, _KEPT, True),
)
_CUT = {"truncate": "right"}  # long documents, as the other servers do without being told


class AbsentError(RuntimeError):
    """A contender cannot take part; the message says why in one line."""


@dataclass(frozen=True)
class Way:
    """One way of asking a server: a row in the tables.

    Attributes:
        name: In the tables.
        fields: Of the request's body, beside the text.
        weights: What its vectors are compared with: those of these weights, whole, in float32.
        is_reduced: Whether less is computed, so that vectors differ and are scored.
    """

    name: str
    fields: Mapping[str, Any]
    weights: str = CONVERTED
    is_reduced: bool = False

    def body(self, text: str) -> bytes:
        """Return the body of a request."""
        return json.dumps({**self.fields, "input": text}).encode()


@dataclass(frozen=True)
class Contender:
    """One server.

    Attributes:
        name: For the option --only.
        software: What runs, for the tables.
        ways: To ask it.
        launch: How to start it; installs it first where needed.
        is_peer: Whether it is not Rheostat.
    """

    name: str
    software: str
    ways: tuple[Way, ...]
    launch: Callable[[], Launch] = field(repr=False)
    is_peer: bool = True


def rheostat(checkpoint: Path, models: Path, name: str, num_threads: int) -> list[Contender]:
    """Return Rheostat as it starts by itself: with the peers' weights, and with an elastic model.

    Args:
        checkpoint: Made from the peers' weights by `rheostat convert`.
        models: Folder of checkpoints that holds the elastic one.
        name: Of the elastic one.
        num_threads: Of one forward pass.
    """
    serve = _Serve(checkpoint, models, name, num_threads)
    own = {"model": CONVERTED}
    same = (
        Way(SAME_WEIGHTS, own),
        Way(f"{SAME_WEIGHTS}, {_REDUCED}", own | {"budget": _KEPT} | _CUT, is_reduced=True),
    )
    elastic = tuple(
        Way(f"{name}, {what}", {"model": name, "budget": budget} | _CUT, name, is_reduced)
        for what, budget, is_reduced in _BUDGETS
    )
    return [
        Contender(SAME_WEIGHTS, "Rheostat, the same weights", same, serve.same_weights, False),
        Contender("elastic", f"Rheostat, {name}", elastic, serve.elastic, False),
    ]


@dataclass(frozen=True)
class _Serve:
    checkpoint: Path
    models: Path
    name: str
    num_threads: int

    def same_weights(self) -> Launch:
        return self._launch(self.checkpoint)

    def elastic(self) -> Launch:
        return self._launch(checkpoint_of(self.models, self.name))

    def _launch(self, checkpoint: Path) -> Launch:
        options = f"--port {{port}} --num-threads {self.num_threads}"
        options += " --policy fixed"  # the subnet that the budget names, also under load
        return Launch(
            (
                *(sys.executable, "-m", "server", "serve", "--log-level", "warning"),
                *options.split(),
                *("--models", str(checkpoint.resolve())),
            )
        )


def checkpoint_of(models: Path, name: str) -> Path:
    """Return the folder of a model.

    Raises:
        AbsentError: If no checkpoint has this name.
    """
    try:
        found = {read_manifest(path).name: path for path in find_checkpoints(models)}
    except (CatalogError, CheckpointError) as error:
        raise AbsentError(str(error)) from None
    if name not in found:
        raise AbsentError(f"{models} has no model {name!r}, only {', '.join(found)}")
    return found[name]
