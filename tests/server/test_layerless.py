from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from models import checkpoint
from models.backends.torch import TorchBackend
from models.inputs.text import text_input
from models.run.jobs import Done, Job
from search.offline.static_exit import static_rows, with_static
from server.app import create_app
from server.layerless import runs_here, vectors_here
from server.settings import Settings
from tests.search.offline.test_static_exit import write_pruned
from tests.server.indexes.test_fitted import write_model


def test_vectors_without_layers_are_those_of_a_back_end(tmp_path: Path) -> None:
    model = with_static(checkpoint.load(write_pruned(tmp_path / "tiny")).model)
    shapes = model.inputs.plan_shapes()
    plan = model.plan(static_rows(model)[-1], shapes, ["similarity"])
    assert runs_here(plan)
    assert not runs_here(model.plan(model.space.largest, shapes, ["similarity"]))
    read = text_input(model.inputs)
    items = [model.inputs.item({"text": read.encode(text)}) for text in ("w1", "w2 w3 w9", "w5 w5")]
    jobs = [Job(plan, one) for one in items]
    found = {
        i: done.outputs["similarity"]
        for answered in TorchBackend().execute(jobs, model.inputs.collate)
        for i, done in answered
        if isinstance(done, Done)
    }
    expected = torch.stack([found[i] for i in range(3)])
    torch.testing.assert_close(vectors_here(plan, items), expected)


def test_a_model_that_is_only_planned_with_has_its_exit_without_layers(tmp_path: Path) -> None:
    """As in processes that answer HTTP beside one that runs the models."""
    write_model(tmp_path / "tiny")
    whole, light = (checkpoint.load(tmp_path / "tiny", w).model for w in (True, False))
    kept = {name for name, one in light.named_parameters() if one.device.type != "meta"}
    assert kept == {"static.table", "static.weights"}
    assert torch.equal(light.static.table, whole.static.table)
    plan = light.plan(static_rows(light)[-1], light.inputs.plan_shapes(), ["similarity"])
    assert runs_here(plan)


def test_a_first_stage_without_layers_is_not_held_up_by_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are scored though nothing that is given to the engine is done in time."""
    write_model(tmp_path / "tiny")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    texts = [f"w{i} w{(3 * i) % 40} w{(7 * i) % 50}" for i in range(12)]
    body: dict[str, Any] = {"query": "w3 w9", "documents": texts, "budget": {"latency_ms": 900}}
    with TestClient(create_app(Settings(models=tmp_path, policy="fixed"))) as client:
        least = {"fraction": 0.01, "strict": True}
        fixed = client.post("/v1/rerank", json={**body, "budget": least, "in_stages": False}).json()
        engine = client.app.state.engine  # type: ignore[attr-defined]
        monkeypatch.setattr(engine.core, "put", lambda waiting: [])
        found = client.post("/v1/rerank", json=body).json()
    assert found["receipt"]["stages"]["reached"] == [0] * 12
    assert found["receipt"]["stages"]["expected_overlap"] > 0.5
    order, expected = ([one["index"] for one in own["results"]] for own in (found, fixed))
    assert order == expected
