"""The other servers: pinned versions, and how each is started.

All serve the same MiniLM on the CPU and answer `/v1/embeddings` with JSON floats. Where a server
has several engines or settings, the fastest that works here is taken, and why stands beside it.
None writes a line per request. infinity, LitServe and mosec batch up to 32 texts; libraries stand
behind a plain handler, which is what their pages show.

Not among them: Text Embeddings Inference, vLLM's CPU build and Triton, which pip does not install;
light-embed, which is fastembed's engine for the same file; model2vec, whose models are others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.peers import infinity
from bench.peers.contenders import CONVERTED, Contender, Way
from bench.peers.environments import python_of
from bench.peers.exports import ENVIRONMENTS, Weights, environment
from bench.peers.process import Launch

_APPS = Path(__file__).parent / "apps"
_WEB = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0")
_RUNTIMES = ("onnxruntime==1.32.0", "openvino==2026.4.1", "tokenizers==0.23.3")
_ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "plain": (*_WEB, "sentence-transformers==6.2.0", "transformers==5.23.0"),
    "litserve": ("litserve==0.2.19", *_RUNTIMES),
    "mosec": ("mosec==0.9.8", *_RUNTIMES),
    "fastembed": ("fastembed==0.9.1", *_WEB),
    "embed-anything": ("embed-anything==0.7.1", *_WEB),
}


@dataclass(frozen=True)
class _Served:
    """One engine in one server.

    Attributes:
        environment: That has both.
        app: File in `apps/`.
        engine: Of `apps/engines.py`.
        form: Of the weights, see `Weights.folder`.
        software: What runs, for the tables.
        num_workers: Processes that share the threads.
    """

    environment: str
    app: str
    engine: str
    form: str
    software: str
    num_workers: int = 1

    def launch(self, weights: Weights, num_threads: int) -> Launch:
        """Return how to start it; installs and exports first where needed."""
        name = self.environment
        if name in ENVIRONMENTS:
            python = environment(weights.envs, name)
        else:
            python = python_of(weights.envs / name, _ENVIRONMENTS[name])
        folder = weights.folder(self.form)
        variables = {
            "PEER_ENGINE": self.engine,
            "PEER_MODEL": str(folder),
            "PEER_THREADS": str(max(1, num_threads // self.num_workers)),
            "PEER_WORKERS": str(self.num_workers),
            "PEER_PORT": "{port}",
            "MOSEC_ADDRESS": "127.0.0.1",
            "MOSEC_PORT": "{port}",
            "MOSEC_TIMEOUT": "60000",
            "MOSEC_LOG_LEVEL": "warning",
        }
        if self.engine == "embed-anything":
            variables["HF_HUB_CACHE"] = str(_as_cache(folder, python.parents[1]))
        return Launch((str(python), str(_APPS / f"{self.app}.py")), variables)


_ONNX, _OPENVINO = "ONNX Runtime 1.32.0", "OpenVINO 2026.4.1"
_SERVED = {
    "plain": _Served("plain", "plain", "torch", "torch", "FastAPI, sentence-transformers 6.2.0"),
    "st-onnx": _Served(
        "st-onnx", "plain", "st-onnx", "onnx", "FastAPI, sentence-transformers 5.7.0, ONNX Runtime"
    ),
    "st-openvino": _Served(
        "st-openvino",
        "plain",
        "st-openvino",
        "openvino",
        "FastAPI, sentence-transformers 6.2.0, OpenVINO",
    ),
    "fastembed": _Served("fastembed", "plain", "fastembed", "onnx", "FastAPI, fastembed 0.9.1"),
    "embed-anything": _Served(
        "embed-anything", "plain", "embed-anything", "onnx", "FastAPI, embed-anything 0.7.1"
    ),
    # Two workers of a thread each answer a quarter more than one of two threads, and are hardly
    # disturbed by what else runs: threads that wait for each other spin. OpenVINO is faster in one.
    "litserve": _Served(
        "litserve", "litserve_app", "onnx", "onnx", f"LitServe 0.2.19, {_ONNX}", num_workers=2
    ),
    "mosec": _Served("mosec", "mosec_app", "onnx", "onnx", f"mosec 0.9.8, {_ONNX}", num_workers=2),
    "mosec-openvino": _Served(
        "mosec", "mosec_app", "openvino", "openvino", f"mosec 0.9.8, {_OPENVINO}"
    ),
}


def peers(weights: Weights, num_threads: int) -> list[Contender]:
    """Return the other servers, each in float32 and, but for torch, in int8.

    Args:
        weights: That all serve.
        num_threads: Of each server, all its workers together.
    """
    launches: dict[str, tuple[str, Callable[[], Launch]]] = {}
    for name, one in _SERVED.items():
        launches[name] = one.software, partial(one.launch, weights, num_threads)
        if one.form != "torch":
            reduced = replace(one, form=f"{one.form}-int8")
            launches[f"{name}-int8"] = one.software, partial(reduced.launch, weights, num_threads)
    of_torch = "infinity-emb 0.0.78, torch with BetterTransformer"
    launches["infinity"] = of_torch, partial(infinity.torch_engine, weights)
    for name, form in (("infinity-onnx", "onnx"), ("infinity-onnx-int8", "onnx-int8")):
        software = "infinity-emb 0.0.78, ONNX Runtime"
        launches[name] = software, partial(infinity.onnx_engine, weights, form)
    found = []
    for name, (software, launch) in launches.items():
        way = Way(name, {"model": CONVERTED}, is_reduced=name.endswith("-int8"))
        found.append(Contender(name, software, (way,), launch))
    return found


def _as_cache(folder: Path, environment: Path) -> Path:
    """Return a folder that holds a model as the cache of the hub does."""
    home = environment / f"hub-{folder.name}"
    model = home / "models--peer--model"
    if not model.is_dir():
        (model / "refs").mkdir(parents=True)
        (model / "refs" / "main").write_text("0")
        (model / "snapshots").mkdir()
        (model / "snapshots" / "0").symlink_to(folder.resolve())
    return home
