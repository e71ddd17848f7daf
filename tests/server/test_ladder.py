"""Ladders, served: chosen by FLOPs, quality and latency, on both back ends, and reloaded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from search.offline.laddering import ladder
from server.app import create_app
from server.settings import Settings
from tests.search.offline.test_laddering import write_member
from tests.server.samples import image, text_of
from tests.tiny_text import write_text_checkpoint

ASKED = {"image": text_of(image()), "model": "ladder"}


def write_ladder(folder: Path, *seeds: int) -> None:
    """Write a ladder of networks of three widths."""
    parts = folder.parent / f"parts-{'-'.join(map(str, seeds))}"
    members = [write_member(parts / str(n), n, s) for n, s in zip((1, 2, 3), seeds, strict=True)]
    ladder(members, folder, "ladder")


@pytest.fixture(autouse=True)
def torch_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # for this process's other tests


@pytest.fixture(params=["torch", "onnx"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    """A server of a ladder."""
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
    write_ladder(tmp_path / "models" / "ladder", 2, 3, 4)
    settings = Settings(
        models=tmp_path / "models",
        policy="fixed",
        backend=request.param,
        profiles=tmp_path / "kept",
        num_threads=1,  # as all tests: the runtime's pool is the process's
    )
    with TestClient(create_app(settings)) as client:
        yield client


def ask(client: TestClient, **budget: Any) -> dict[str, Any]:
    answer = client.post("/v1/infer", json={**ASKED, "budget": budget})
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()["receipt"]
    return receipt


def test_a_budget_chooses_a_member_and_none_is_slimmed_without_one(
    client: TestClient, tmp_path: Path
) -> None:
    whole = ask(client)
    assert whole["subnet"] == {"member": "width-3"}
    assert whole["fraction"] == 1
    cheap = ask(client, fraction=0.7)
    assert cheap["macs"] <= 0.7 * whole["macs"]
    assert cheap["subnet"]["member"] in ("width-1", "width-2")
    floor = ask(client, min_quality=0.5)
    assert floor["subnet"] == {"member": "width-1"}
    in_time = ask(client, latency_ms=2_000)
    assert in_time["predicted_run_ms"] > 0
    # The same as each member gives by itself: a budget in MACs per member.
    answers = {
        name: client.post(
            "/v1/infer", json={**ASKED, "budget": {"macs": ask(client, min_quality=q)["macs"]}}
        ).json()["outputs"]
        for name, q in (("low", 0.5), ("high", 1.0))
    }
    assert answers["low"] != answers["high"]


def test_a_reload_swaps_all_members_and_a_damaged_one_none(
    client: TestClient, tmp_path: Path
) -> None:
    def probabilities() -> Any:
        return client.post("/v1/infer", json=ASKED).json()["outputs"]

    before = probabilities()
    write_ladder(tmp_path / "models" / "ladder", 5, 6, 7)
    answer = client.post("/v1/models/ladder/reload")
    assert answer.status_code == 200, answer.text
    after = probabilities()
    assert after != before
    path = tmp_path / "models" / "ladder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert client.post("/v1/models/ladder/reload").status_code >= 400
    assert probabilities() == after


def test_sessions_take_the_members_steps_over(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    write_ladder(tmp_path / "models" / "ladder", 2, 3, 4)
    settings = Settings(
        models=tmp_path / "models",
        policy="fixed",
        backend="onnx",
        profiles=tmp_path / "kept",
        num_threads=1,
    )
    with TestClient(create_app(settings)) as client:
        end, held = time.monotonic() + 100, [""]
        while time.monotonic() < end:
            for fraction in (0.7, 1.0):
                ask(client, fraction=fraction)
            metrics = client.get("/metrics").text
            held = [x for x in metrics.splitlines() if x.startswith("rheostat_backend_sessions")]
            if held and float(held[0].split()[-1]) > 0:
                break
        assert float(held[0].split()[-1]) > 0


def test_texts_are_embedded_by_the_member_that_the_budget_allows(tmp_path: Path) -> None:
    folders = [write_text_checkpoint(tmp_path / "parts" / name, name) for name in ("a", "b")]
    ladder(folders, tmp_path / "models" / "texts", "texts")
    with TestClient(create_app(Settings(models=tmp_path / "models", policy="fixed"))) as client:
        body = {"model": "texts", "input": ["w1 w2", "w3"]}
        answer = client.post("/v1/embeddings", json=body)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"][0]["embedding"]) == 16
        assert client.get("/info", params={"model": "texts"}).status_code == 200
