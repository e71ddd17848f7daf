"""Who is compared: the peers with their pinned versions, and Rheostat in several ways.

All serve the same MiniLM in float32 on the CPU and answer `/v1/embeddings` with JSON floats. Where
a server has several engines or settings, the fastest that works here is taken, and why stands
beside it. None writes a line per request; all but the plain server batch up to 32 texts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peers import infinity
from bench.peers.environments import python_of
from bench.peers.process import Launch
from models.checkpoint import CheckpointError, read_manifest
from server.catalog import CatalogError, find_checkpoints

SAME_WEIGHTS = "rheostat"  # the way that others are compared with
CONVERTED = "minilm"
_APPS = Path(__file__).parent / "apps"
_BUDGETS: Mapping[str, dict[str, float]] = {
    "whole": {},
    "99 % score": {"min_quality": 0.99},
    "half MACs": {"fraction": 0.5},
}
_SENTENCE_TRANSFORMERS = ("sentence-transformers==6.2.0", "transformers==5.23.0")


class AbsentError(RuntimeError):
    """A contender cannot take part; the message says why in one line."""


@dataclass(frozen=True)
class Way:
    """One way of asking a server: a row in the tables.

    Attributes:
        name: In the tables.
        fields: Of the request's body, beside the text.
        must_match: Whether its vectors have to be those of sentence-transformers.
    """

    name: str
    fields: Mapping[str, Any]
    must_match: bool = True

    def body(self, text: str) -> bytes:
        """Return the body of a request."""
        return json.dumps({**self.fields, "input": text}).encode()


@dataclass(frozen=True)
class Contender:
    """One server.

    Attributes:
        name: For the option --only, and of the environment.
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


def peers(envs: Path, model: Path) -> list[Contender]:
    """Return the other servers.

    Args:
        envs: Folder of their environments.
        model: A sentence-transformers folder.
    """

    def app(name: str, *requirements: str) -> Callable[[], Launch]:
        def launch() -> Launch:
            python = python_of(envs / name, (*requirements, *_SENTENCE_TRANSFORMERS))
            variables = {
                "PEER_MODEL": str(model),
                "PEER_PORT": "{port}",
                "MOSEC_ADDRESS": "127.0.0.1",
                "MOSEC_PORT": "{port}",
                "MOSEC_TIMEOUT": "60000",
                "MOSEC_LOG_LEVEL": "warning",
            }
            return Launch((str(python), str(_APPS / f"{name}_app.py")), variables)

        return launch

    plain = app("plain", "fastapi==0.165.0", "uvicorn[standard]==0.54.0")
    described = {
        "plain": ("FastAPI 0.165.0, sentence-transformers 6.2.0", plain),
        "litserve": (
            "LitServe 0.2.19, sentence-transformers 6.2.0",
            app("litserve", "litserve==0.2.19"),
        ),
        "mosec": ("mosec 0.9.8, sentence-transformers 6.2.0", app("mosec", "mosec==0.9.8")),
        "infinity": (
            "infinity-emb 0.0.78, torch with BetterTransformer",
            lambda: infinity.torch_engine(envs, model),
        ),
        "infinity-onnx": (
            "infinity-emb 0.0.78, ONNX Runtime",
            lambda: infinity.onnx_engine(envs, model),
        ),
    }
    return [
        Contender(name, software, (Way(name, {"model": CONVERTED}),), launch)
        for name, (software, launch) in described.items()
    ]


def rheostat(checkpoint: Path, models: Path, name: str, num_threads: int) -> list[Contender]:
    """Return Rheostat on both back ends: with the peers' weights, and with an elastic model.

    Args:
        checkpoint: Made from the peers' weights by `rheostat convert`.
        models: Folder of checkpoints that holds the elastic one.
        name: Of the elastic one; it is asked for the whole model and under two budgets.
        num_threads: Of one forward pass.
    """
    found = []
    for backend, suffix in (("torch", ""), ("onnx", "-onnx")):
        serve = _Serve(checkpoint, models, name, num_threads, backend)
        way = Way(SAME_WEIGHTS + suffix, {"model": CONVERTED})
        software = f"the same weights, {backend}"
        found.append(Contender(way.name, software, (way,), serve.same_weights, False))
        ways = tuple(
            Way(f"{name}{suffix} {what}", {"model": name, "budget": budget}, must_match=False)
            for what, budget in _BUDGETS.items()
        )
        found.append(
            Contender(f"elastic{suffix}", f"{name}, {backend}", ways, serve.elastic, False)
        )
    return found


@dataclass(frozen=True)
class _Serve:
    checkpoint: Path
    models: Path
    name: str
    num_threads: int
    backend: str

    def same_weights(self) -> Launch:
        return self._launch(self.checkpoint)

    def elastic(self) -> Launch:
        try:
            found = {read_manifest(path).name: path for path in find_checkpoints(self.models)}
        except (CatalogError, CheckpointError) as error:
            raise AbsentError(str(error)) from None
        if self.name not in found:
            raise AbsentError(f"{self.models} has no model {self.name!r}, only {', '.join(found)}")
        return self._launch(found[self.name])

    def _launch(self, checkpoint: Path) -> Launch:
        options = f"--port {{port}} --num-threads {self.num_threads} --backend {self.backend}"
        options += " --policy fixed"  # the subnet that the budget names, also under load
        return Launch(
            (
                *(sys.executable, "-m", "server", "serve", "--log-level", "warning"),
                *options.split(),
                *("--models", str(checkpoint.resolve())),
            )
        )
