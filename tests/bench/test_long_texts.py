"""Long texts at a real server, and what is seen of others meanwhile."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.long_texts import TEXTS, bodies, measure, watching
from bench.peers.process import Launch, running
from server.http.scopes import SCOPES, template_of
from tests.tiny_text import write_text_checkpoint

ROOT = Path(__file__).parents[2]
_TOKENISES = {  # every path that posts texts; those beside it take ids, images, or nothing to read
    *("/v1/infer", "/v1/embeddings", "/embeddings", "/v1/similarity", "/similarity"),
    "/predict",
    *("/v1/rerank", "/v2/rerank", "/rerank", "/embed", "/", "/tokenize"),
    "/v2/models/{model}/infer",
}


def test_every_path_that_tokenises_is_asked() -> None:
    assert SCOPES.keys() >= _TOKENISES
    assert {template_of(path) for path, _ in bodies("a", "m")} == _TOKENISES


@pytest.mark.slow
def test_long_texts_are_cut_or_refused_and_nobody_waits(tmp_path: Path) -> None:
    folder = write_text_checkpoint(tmp_path / "tiny-text")
    serve = (sys.executable, "-m", "server", "serve", "--port", "{port}", "--models", str(folder))
    kept = ("--profiles", f"{tmp_path}/profiles", "--database", f"sqlite:///{tmp_path}/db")
    launch = Launch((*serve, *kept, "--log-level", "warning"), {"PYTHONPATH": str(ROOT)})
    with running(launch, 1, json.dumps({"input": "a"}).encode()) as server:
        found = measure(server, 300_000, "tiny-text")
        with watching(server) as health_s:
            pass
    assert len(health_s) >= 1
    assert {name for name, *_ in found} == set(TEXTS)
    assert {status for _, _, status, *_ in found} <= {200, 400, 422}
    cut = [status for name, path, status, *_ in found if name == "words" and path == "/embed"]
    assert cut == [200]
    assert all(taken_s > 0 and health_s > 0 for *_, taken_s, health_s in found)
