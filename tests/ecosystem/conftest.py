"""A real server, and what its own protocol answers, to compare stock clients with.

`make clients` runs this folder in an environment of its own; elsewhere nothing here is collected.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("litellm") is None:
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).parents[2]
RHEOSTAT = os.environ.get("RHEOSTAT", str(ROOT / ".venv/bin/rheostat"))
MODEL = "minilm-2d"
TEXTS = [
    "a cat sits on a mat",
    "stocks fell on Monday",
    "the kitten sleeps",
    "w\u00f6rter \u4e2d \U0001f600",
]
QUERY = "a small cat"
LONG = "many words " * 2000
_START_S = 300  # steps are timed at the first start

# Nothing is asked of the network: neither price lists nor telemetry.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False"}


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of one text model, as `rheostat serve` starts it."""
    with serving(ROOT / "models/zoo" / MODEL, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="session")
def scorer_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of one model that compares two texts, a tiny one of made-up words."""
    folder = tmp_path_factory.mktemp("scorer")
    # Only the server's own environment can write models.
    python = Path(RHEOSTAT).resolve().parent / "python"
    code = "import sys, pathlib; from tests.tiny_headed import write_cross_encoder as write; "
    code += "write(pathlib.Path(sys.argv[1]))"
    subprocess.run([python, "-c", code, folder / "model"], cwd=ROOT, check=True)
    with serving(folder / "model", folder) as url:
        yield url


@contextmanager
def serving(models: Path, folder: Path) -> Iterator[str]:
    """Serve a checkpoint from a process of its own; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        RHEOSTAT,
        *("serve", "--port", str(port), "--models", str(models)),
        *("--backend", "torch", "--policy", "fixed", "--database", f"sqlite:///{folder}/keys.db"),
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(f"http://127.0.0.1:{port}", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="session")
def post(url: str) -> Callable[..., Any]:
    """Ask the server without any client's ideas."""
    import httpx

    def send(path: str, **body: Any) -> Any:
        answer = httpx.post(f"{url}{path}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return send


Check = Callable[[Any], None]


@pytest.fixture(scope="session")
def same(post: Callable[..., Any]) -> Check:
    """Check vectors of `TEXTS`: their direction, to 1e-6 in the cosine."""
    import numpy as np

    rows = post("/v1/embeddings", model=MODEL, input=TEXTS)["data"]
    expected = np.array([row["embedding"] for row in rows])
    assert np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)

    def check(vectors: Sequence[Sequence[float]]) -> None:
        found = np.array(vectors, dtype=np.float64)
        assert found.shape == expected.shape
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        assert ((found * expected).sum(axis=1) > 1 - 1e-6).all()

    return check


@pytest.fixture(scope="session")
def ranks(post: Callable[..., Any]) -> Check:
    """Check the order of `TEXTS` by their likeness to `QUERY`, best first."""
    scores = post("/v1/similarity", model=MODEL, source=QUERY, texts=TEXTS)["scores"]
    expected = sorted(range(len(TEXTS)), key=lambda i: -scores[i])
    assert expected != list(range(len(TEXTS)))

    def check(order: Sequence[int]) -> None:
        assert list(order) == expected

    return check
